"""Writes what is generated: the list of Gateway API's fields (--schema), and the tables in docs/traffic.md."""

import argparse

from tests.conformance import listed, table

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", action="store_true", help="the list of fields, too, from the pinned module")
    if parser.parse_args().schema:
        listed.LIST.write_text(listed.from_module())
    table.PAGE.write_text(table.put(table.PAGE.read_text(), table.tables()))
