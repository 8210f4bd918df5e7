"""Makes faulty files from valid ones: flipped bits, truncation, repetition, and misplaced numbers and words."""

from __future__ import annotations

from random import Random

_NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"1" * 400, b"9223372036854775808", b"1e400", b"-0.0", b"1_0", b"0x7f")
_WORDS = (
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b'"',
        b"'",
        b"(",
        b")",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b"\n",
        b"\r\n",
    ),
    *(b"\\ud800", b"\\u0000", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[31m", b"\xe2\x80\xae", b"\xef\xbb\xbf"),
    *(b"__import__('os')", b"lambda: 0", b"*", b"**", b"\\", b"#", b"range(", b"f'{x}'"),
)


def mutated(content: bytes, random: Random, words: tuple[bytes, ...] = ()) -> bytes:
    """The content with one to four faults; `words` are tokens of its language."""
    for _ in range(random.choice((1, 1, 2, 4))):
        content = random.choice(_FAULTS)(content, random, words)
    return content


def _flip(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _byte(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    place = random.randrange(len(content) + 1)
    return content[:place] + bytes([random.choice((0, 255, 127, random.randrange(256)))]) + content[place + 1 :]


def _cut(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _part(content: bytes, random: Random) -> slice:
    start = random.randrange(len(content) + 1)
    return slice(start, start + random.choice((1, 2, 4, 16, 64)))


def _remove(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    part = _part(content, random)
    return content[: part.start] + content[part.stop :]


def _copy(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    place = random.randrange(len(content) + 1)
    return content[:place] + content[_part(content, random)] * random.choice((1, 1, 2, 50)) + content[place:]


def _word(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    part = _part(content, random)
    stop = random.choice((part.start, part.stop))
    return content[: part.start] + random.choice((*_WORDS, *_NUMBERS, *words)) + content[stop:]


def _swap(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    """Replaces one word of the language by another."""
    found = [word for word in words if word in content]
    if not found:
        return _word(content, random, words)
    old = random.choice(found)
    places = content.count(old)
    before = old.join(content.split(old)[: random.randrange(places) + 1])
    return before + random.choice((*words, *_NUMBERS)) + content[len(before) + len(old) :]


def _number(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    """Inserts an extreme number in binary, as headers have them."""
    size = random.choice((1, 2, 4, 8))
    value = random.choice((0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, random.randrange(2 ** (8 * size))))
    place = random.randrange(min(len(content), 64) + 1)
    return content[:place] + value.to_bytes(size, random.choice(("little", "big"))) + content[place + size :]


def _nest(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    place = random.randrange(len(content) + 1)
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"-", b"")))
    depth = random.choice((10, 200, 5000, 50000))
    return content[:place] + opening * depth + random.choice((b"1", b"")) + closing * depth + content[place:]


_FAULTS = (_flip, _flip, _byte, _cut, _remove, _copy, _word, _swap, _swap, _number, _nest)
