"""The contract's rules for origins, built on Python's URL parsers, and texts to test the rules."""

import encodings.idna
import ipaddress
import string
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

T = TypeVar("T")
_examples: dict[tuple[st.SearchStrategy[Any], int], list[Any]] = {}
WEB = ("http", "https")
SHELLS = ("capacitor", "ionic", "tauri", "chrome-extension", "moz-extension")
MACHINE = ("localhost", "127.0.0.1", "[::1]")
ANY_PORT = {f"{scheme}://{host}:*" for scheme in WEB for host in MACHINE}
LETTERS = set(string.ascii_lowercase + string.digits + "-")


def _split(text: str) -> SplitResult | None:
    """Split a URL; `None` if the URL is invalid, or its port is not a positive number."""
    try:
        parts = urlsplit(text)
        return parts if parts.port is None or parts.port else None
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host)  # a browser rejects zones
    except ValueError:
        return None


def _is_number(label: str) -> bool:
    """Whether a browser reads a host that ends in this label as an IPv4 address."""
    if label.isdigit() or label == "0x":
        return True
    try:
        return label.startswith("0x") and int(label, 16) >= 0
    except ValueError:
        return False


def _is_name(host: str) -> bool:
    """Whether a text is the name of a host: labels of letters, digits and inner hyphens."""
    labels = host.split(".")
    if len(host) > 253 or _is_number(labels[-1]):
        return False
    for label in labels:
        if not set(label) <= LETTERS or label != label.strip("-"):
            return False
        try:
            encodings.idna.ToASCII(label)  # checks the length: 1 to 63
        except UnicodeError:
            return False
    return True


def _browser(parts: SplitResult) -> str | None:
    """The origin of a page at this URL as a browser writes it; `None` if the page has no origin."""
    host = parts.hostname or ""
    address = _address(host)
    if parts.scheme not in (*WEB, *SHELLS) or not (address or _is_name(host)):
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # PostgreSQL writes these addresses with dots, a browser without: they cannot be saved.
        if address.ipv4_mapped or 0xFFFF < int(address) < 2**32:
            return None
        host = f"[{address.compressed}]"
    elif address:
        host = str(address)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def is_origin(text: str) -> bool:
    """Whether a text is an origin exactly as a browser writes it."""
    parts = _split(text)
    return parts is not None and _browser(parts) == text


def may_be_saved(entry: str, environment: str) -> bool:
    """Whether a key of this environment may have this entry in its list of origins."""
    if entry == "*" or entry in ANY_PORT:
        return environment == "test"
    scheme, star, below = entry.partition("://*.")
    if not star:
        return is_origin(entry)
    parts = _split(f"{scheme}://{below}")
    if scheme not in WEB or parts is None or not is_origin(parts.geturl()):
        return False
    host = parts.hostname or ""
    return below == parts.netloc and _address(host) is None and host.count(".") >= 1


def matches(origin: str | None, entries: Sequence[str]) -> bool:
    """Whether the list of origins allows a request from this origin."""
    return origin is not None and is_origin(origin) and any(_allows(e, origin) for e in entries)


def _allows(entry: str, origin: str) -> bool:
    if entry == "*" or entry == origin:
        return True
    mine = urlsplit(origin)
    if entry in ANY_PORT:
        theirs = urlsplit(entry.removesuffix(":*"))
        return (mine.scheme, mine.hostname) == (theirs.scheme, theirs.hostname)
    theirs = urlsplit(entry)
    labels = (theirs.hostname or "").split(".")
    if labels[0] != "*" or (mine.scheme, mine.port) != (theirs.scheme, theirs.port):
        return False
    above = (mine.hostname or "").split(".")
    return len(above) >= len(labels) and above[1 - len(labels) :] == labels[1:]


def one(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


LONG = ".".join(["a" * 63] * 3)
HOST = (
    *(
        "example.com",
        "a.example",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "xn--bcher-kva.example",
        "com",
    ),
    *("a.b.example.com", "a-b.c--d.example", "1.example", "0x1.example", "[2001:db8::1]", "a.0xg"),
    *("10.0.0.1", "255.255.255.255", "256.1.1.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.04"),
    *("0x7f.1", "a.1", "a.0x", "a.0x1f", "1.2.3.4.", "a..b", ".a.b", "-a.b", "a-.b", "a_b.c", ""),
    *("bücher.example", "ExamplE.com", "a%2eb.example", "(a|b).example", "a.example.", "１.２"),
    *("a" * 63 + ".example", "a" * 64 + ".example", f"{LONG}.{'a' * 61}", f"{LONG}.{'a' * 62}"),
    *("[2001:DB8::1]", "[2001:db8:0:0::1]", "[::1", "::1", "[:::1]", "[1]", "[.*]", "[::1%1]"),
    *("[::ffff:1.2.3.4]", "[::ffff:102:304]", "[1:0:0:2:0:0:0:3]", "[1:0:0:2::3]", "[::]", "[]"),
    *("256.256.256.256", "1.2.3.256", "1.2.3.259", "0.1.0.0", "00.0.0.0", "a.b.c_d", "a.b_c.d"),
)
SCHEME = (*WEB, *SHELLS, "ftp", "HTTPS", "file", "", "httpss", "xhttps", "tauri+x", "javascript")
PORT = (
    *("", ":443", ":80", ":8443", ":1", ":65535", ":65536", ":99999", ":100000", ":0", ":00", ":*"),
    *(":08443", ":", ":x", ":+1", ":1_0", ":٣", ": 1", ":80:80", ":-1", ":1.0", ":**", ":3*"),
)
STAR = ("", "*.", "*", "**.", "a.*.", "*.*.", "%.", ".*.", "*.a.", "a*.", "*a.", "*-.")
USER = ("", "me@", "me:pw@", "@", ":@")
TAIL = (
    *("", "/", "?", "#", ".", "\n", " ", "\t", "\x01", "/a?b#c", "\\", ",", "@evil.example"),
    *("%", "_"),
)
NASTY = "*.%_:/@?#\\[]()|^$+- \n\t\r\x01\x7f\x85\xa0Aé\u0131\u202e\u2024\u3002\ufeff１ß"
FINE: tuple[str, ...] = ("*", *sorted(ANY_PORT), "https://example.com", "https://*.example.com")
FINE += ("http://[::1]:3000", "http://1.2.3.4", "https://*.a.example:8443", "tauri://localhost")
FINE += ("moz-extension://0b1a-4222",)


def corners() -> list[str]:
    """Entries that are valid except for one fault or oddity; each fault and oddity occurs."""
    found = [
        *FINE,
        "",
        "null",
        "**",
        "https://",
        "://",
        "example.com",
        " https://example.com",
        "https:",
    ]
    found += [f"{scheme}://{star}example.com" for scheme in SCHEME for star in STAR]
    some = (*WEB, "tauri")
    found += [f"{scheme}://{star}{host}" for scheme in some for star in STAR[:2] for host in HOST]
    found += [f"{fine}{rest}" for fine in FINE for rest in (*PORT, *TAIL)]
    for host in ("example.com", "*.example.com", "1.2.3.4", *MACHINE):
        found += [f"{scheme}://{host}{port}" for scheme in some for port in PORT]
        found += [f"https://{user}{host}{tail}" for user in USER for tail in TAIL]
    return sorted(set(found))


V6 = st.ip_addresses(v=6).map(lambda address: f"[{address.compressed}]")
HOSTS = st.one_of(
    one(*HOST),
    one("example.com", "localhost"),
    V6,
    V6.map(str.upper),
    st.ip_addresses(v=4).map(str),
    st.from_regex(r"[a-z0-9]{1,3}(-[a-z0-9]{1,2})?(\.[a-z0-9]{1,4}){0,3}", fullmatch=True),
)
BUILT = st.builds(
    lambda scheme, star, host, port: f"{scheme}://{star}{host}{port}",
    one(*WEB, *WEB, *SCHEME),
    one(*[""] * 12, *STAR),
    HOSTS,
    one(*[""] * 24, *PORT),
)


@st.composite
def mutated(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with one fault."""
    text = draw(texts)
    at = draw(st.integers(0, len(text)))
    odd = draw(st.sampled_from(NASTY))
    faulty = (
        text[:at] + odd + text[at:],
        text[:at] + odd + text[at + 1 :],
        text[:at] + text[at + 1 :],
    )
    return draw(one(*faulty, text.upper(), text[:at] + text[at:].upper()))


ENTRIES = BUILT | BUILT | mutated(one(*FINE))
SAVED = (BUILT | one(*FINE)).filter(lambda entry: may_be_saved(entry, "test"))
LABELS = st.text(
    one(*"abcxyz019-") | st.characters(min_codepoint=0x80, exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
)


def near(entry: str) -> list[str | None]:
    """Origins that an entry matches, and origins that it nearly matches."""
    below = (
        "a.",
        "a.b.",
        "a-1.",
        "",
        "evil",
        "evil-",
        "*.",
        ".",
        "a_b.",
        "x.example.com/",
        "a@",
        "A.",
    )
    ports = (
        "",
        ":3000",
        ":443",
        ":80",
        ":",
        ":*",
        ".evil.example",
        "x",
        ":65536",
        ":03000",
        "/",
        ".",
    )
    found = {entry.replace("*.", label, 1) for label in below}
    found |= {entry.replace(":*", port) for port in ports} | {entry + port for port in ports}
    found |= {entry.replace("://", f"://{label}") for label in below}
    found |= {origin.replace("http:", "https:") for origin in found}
    found |= {origin.replace(".", "x") for origin in found} | {origin.upper() for origin in found}
    return [*sorted(found), None]


def examples(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """Draw `count` values from a strategy, the same values in every run."""
    found: list[T] = []

    @settings(
        max_examples=count // 50,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(strategy, min_size=50, max_size=50))
    def collect(batch: list[T]) -> None:
        found.extend(batch)

    if (strategy, count) not in _examples:
        collect()
        _examples[strategy, count] = found
    return list(_examples[strategy, count])
