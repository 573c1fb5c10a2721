import os

import pytest

from agent.definitions import load, parse, stamp

NODE = "n1"
WEB = b"""
name: web
namespace: shop
ports: [{port: 8080, protocol: http}]
health: {type: http, path: /healthz}
upstreams: [{service: api, port: 80, listen: "127.0.0.1:9001"}]
"""
API = b"name: api\nnamespace: shop\nports: [{port: 8081}]\n"


def test_bad_files_do_not_stop_the_others():
    read = parse(
        [
            ("10-web.yaml", WEB),
            ("20-bad.yaml", b"name: [\n"),
            ("30-worse.yaml", b"name: ../etc\nnamespace: shop\nprots: []\n"),
            ("40-api.yaml", API),
            (
                "50-hostile.yaml",
                b"name: x\nports: [{port: 99999}]\nupstreams: [{service: a, port: 1, listen: '0.0.0.0:1'}]\n",
            ),
        ],
        NODE,
    )
    assert [d.name for d in read.good] == ["web", "api"]
    named = {problem.partition(":")[0] for problem in read.problems}
    assert named == {"20-bad.yaml", "30-worse.yaml", "50-hostile.yaml"}
    assert any("prots" in problem for problem in read.problems)
    assert any("ports[0].port" in p for p in read.problems)
    assert any("listen" in p for p in read.problems), "both faults of one file are told"


@pytest.mark.timeout(30)
def test_what_is_no_file_holds_nobody_up(tmp_path):
    """A link into a folder of a service's owner may lead to anything: a pipe that nobody writes to, or no end."""
    (tmp_path / "1.yaml").write_bytes(WEB)
    os.mkfifo(tmp_path / "2.yaml")
    (tmp_path / "3.yaml").symlink_to("/dev/zero")
    (tmp_path / "4.yaml").mkdir()
    (tmp_path / "5.yaml").symlink_to("/proc/self/mem")
    read = load(tmp_path, NODE)
    assert [d.name for d in read.good] == ["web"]
    assert {problem.partition(":")[0] for problem in read.problems} == {"2.yaml", "3.yaml", "4.yaml", "5.yaml"}


def test_what_two_files_claim_stays_with_the_first():
    read = parse(
        [
            ("1.yaml", WEB),
            ("2.yaml", WEB.replace(b"name: web", b"name: other")),
            ("3.yaml", API.replace(b"8081", b"9001")),
            ("4.yaml", API.replace(b"8081", b"8080")),
        ],
        NODE,
    )
    assert [d.name for d in read.good] == ["web", "api"]
    assert [p.partition(":")[0] for p in read.problems] == ["2.yaml", "3.yaml"]
    assert "web.shop" in read.problems[0]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            "{name: a, instance: b-n1}",
            "{name: b}",
            (
                "b.default: instance default/b-n1 (`<name>-<node>`, where it names none) is already taken by a.default"
                " (1.yaml): give one of them another `instance`"
            ),
        ),
        (
            "{name: a}",
            "{name: b, instance: a-n1}",
            (
                "b.default: instance default/a-n1 is already taken by a.default (1.yaml): give one of them another"
                " `instance`"
            ),
        ),
        (
            "{name: web}",
            "{name: web}",
            (
                "web.default: service web.default is already taken by web.default (1.yaml): give one of them another"
                " `name` or `namespace`, or remove one"
            ),
        ),
        (
            "{name: a, ports: [{port: 80}]}",
            "{name: b, upstreams: [{service: c, port: 1, listen: '127.0.0.1:80'}]}",
            (
                "b.default: listen 127.0.0.1:80 is already taken by a.default (1.yaml): give one of them another"
                " `listen` or `ports[].port`"
            ),
        ),
    ],
)
def test_a_clash_names_both_files_both_services_and_what_to_change(first, second, said):
    read = parse([("1.yaml", first.encode()), ("2.yaml", second.encode())], NODE)
    assert len(read.good) == 1
    assert read.problems == (f"2.yaml: {said}",)


def test_the_same_name_in_two_namespaces_is_two_instances():
    read = parse([("1.yaml", b"{name: a, namespace: b-c}"), ("2.yaml", b"{name: a, namespace: b}")], NODE)
    assert (len(read.good), read.problems) == (2, ())


def test_a_folder_is_read_in_the_order_of_names_and_only_yaml(tmp_path):
    (tmp_path / "b.yaml").write_bytes(API)
    (tmp_path / "a.yml").write_bytes(WEB)
    (tmp_path / "c.yaml~").write_bytes(b"name: no\n")
    (tmp_path / ".d.yaml").write_bytes(b"name: no\n")
    assert [d.name for d in load(tmp_path, NODE).good] == ["web", "api"]
    assert load(tmp_path / "none", NODE).good == ()


def test_one_file_may_hold_several():
    read = parse([("all.yaml", WEB + b"---\n" + API)], NODE)
    assert [d.name for d in read.good] == ["web", "api"]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path):
    (tmp_path / "a.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.yaml").write_bytes(API)
    read = load(tmp_path, NODE)
    assert [d.name for d in read.good] == ["api"]
    assert "a.yaml" in read.problems[0]


def test_the_stamp_changes_with_any_file(tmp_path):
    before = stamp(tmp_path)
    (tmp_path / "a.yaml").write_bytes(API)
    first = stamp(tmp_path)
    (tmp_path / "a.yaml").write_bytes(WEB)
    assert len({before, first, stamp(tmp_path)}) == 3


def named(name: str, users: str = "[]", units: str = "[]", account: str = "") -> tuple[str, bytes]:
    text = f"{{name: {name}, namespace: shop, serviceAccount: {account or name}, "
    return f"{name}.yaml", (text + f"callers: {{users: {users}, units: {units}}}}}").encode()


def test_a_process_calls_as_one_identity():
    read = parse(
        [
            named("a", "[app, extra]", "[a.service]"),
            named("b", "[app]", "[b.service]"),
            named("c", "[]", "[a.service]"),
            named("d", "[other]"),
            named("e", "[app]", "[a.service]", account="a"),
        ],
        NODE,
    )
    assert [d.name for d in read.good] == ["a", "d", "e"], "e is the same identity as a"
    assert [p.partition(": one")[0] for p in read.problems] == [
        "b.yaml: callers.users: app calls as shop/a already, for a.shop (a.yaml)",
        "c.yaml: callers.units: a.service calls as shop/a already, for a.shop (a.yaml)",
    ]


def test_several_files_may_call_by_name():
    upstreams = "{service: api, port: 80}"
    texts = [
        (f"{name}.yaml", f"name: {name}\nupstreams: [{upstreams}]\ncallers: {{users: [{name}]}}\n".encode())
        for name in ("a", "b")
    ]
    assert [d.name for d in parse(texts, NODE).good] == ["a", "b"]
