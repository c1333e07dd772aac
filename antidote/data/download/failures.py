"""Kinds of download failures: a classification of img2dataset's messages, with advice for each kind."""

import re
from collections import Counter
from collections.abc import Mapping

AGED = "the table has aged: lower download.accepted to go on with what is there"
BUSY = "lower download.connections, or raise download.timeout and download.patience"
NETWORK = "is there a network? (a proxy is named by the variables http_proxy and https_proxy)"
MANNERS = "servers turn it away: lower download.connections, or name the download by download.user_agent_token"

# Kind, pattern of its messages, whether a retry may succeed, advice. The first matching row applies.
KINDS: tuple[tuple[str, str, bool, str], ...] = (
    ("opted out (X-Robots-Tag)", r"X-Robots-Tag", False, "opt-outs are honoured: lower download.accepted"),
    ("gone (404, 410)", r"HTTP Error (404|410)", False, AGED),
    ("forbidden (401, 403, 451)", r"HTTP Error (401|402|403|405|406|451)", False, MANNERS),
    ("too many requests (429)", r"HTTP Error 429", True, MANNERS),
    ("server error (5xx)", r"HTTP Error 5\d\d", True, AGED),
    ("another HTTP answer", r"HTTP Error|redirect", False, AGED),
    ("no such host", r"(Name or service|nodename nor servname|No address associated|getaddrinfo)", True, NETWORK),
    ("name server does not answer", r"Temporary failure in name resolution", True, NETWORK),
    ("no way to the host", r"(unreachable|No route to host)", True, NETWORK),
    ("connection refused or broken", r"(refused|reset|aborted|closed|EOF occurred|Broken pipe)", True, NETWORK),
    ("timed out", r"(timed out|too slow)", True, BUSY),
    ("faulty certificate", r"(CERTIFICATE|SSL)", False, AGED),
    ("cut short", r"(IncompleteRead|truncated)", True, BUSY),
    ("file too large", r"file too large", False, "raise download.largest"),
    ("too many pixels", r"IMAGE_PIXELS", False, "nothing: such files are made to fill memory"),
    ("too long and thin", r"aspect ratio too large", False, "nothing: such files are made to fill memory"),
    ("another picture than the subset lists", r"hash mismatch", False, "pictures have changed since it was made"),
    ("not a picture", r"(decod|OpenCV|cannot identify|Unsupported|empty)", False, AGED),
)  # fmt: skip
OTHER = ("another reason", False, "see img2dataset.log")


def plain(message: str) -> str:
    """Return a message on one line, with variable numbers replaced, so that equal failures have equal messages."""
    return re.sub(r"\d{3,}(?= (bytes|more))", "...", " ".join(message.split()))[:200]


def kind_of(message: str) -> str:
    """Return the kind of a failure from its message."""
    return _row(message)[0]


def may_pass(message: str) -> bool:
    """Return whether a later retry may succeed after this message."""
    return _row(message)[1]


def advice(kinds: Mapping[str, int]) -> str:
    """Return the advice that applies to most failures, given the number of failures of each kind."""
    by_advice: Counter[str] = Counter()
    for kind, count in kinds.items():
        by_advice[next((text for name, _, _, text in KINDS if name == kind), OTHER[2])] += count
    return by_advice.most_common(1)[0][0] if by_advice else OTHER[2]


def _row(message: str) -> tuple[str, bool, str]:
    for kind, pattern, again, text in KINDS:
        if re.search(pattern, message, re.IGNORECASE):
            return kind, again, text
    return OTHER
