"""Text of others on a terminal: agents, hosts and objects say what they like, and must not steer it."""


def plain(text: str) -> str:
    """Without control, escape and direction characters: each is shown as its code. Line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
