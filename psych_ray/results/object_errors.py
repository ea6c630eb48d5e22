"""What a failed request to an object store means: one line for the user, and whether a repetition may help.

obstore and deltalake tell most errors in their text alone. Of what a store answers only the status and the name of
the error are passed on, because S3 repeats parts of the request in it. Does not send requests.
"""

from __future__ import annotations

import re

from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

from psych_ray.errors import PsychRayError, ResultsError, UnreachableError

_STATUS = re.compile(r"status code\W+(\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REGION = re.compile(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>")
_MARKS = re.compile(r"\x1b\[\d+m|↳")
"""In deltalake's errors, which have a line for each cause."""
_HOST = re.compile(r"https?://[^/\s]+")
_NO_ANSWER = ("HTTP error", "error sending request", "body error")
_REDIRECTED = "redirect without LOCATION"
"""How both libraries tell status 301, by which S3 answers for a bucket in another region."""
_CERTIFICATE = re.compile("invalid peer certificate|InvalidCertificate")

_DAMAGED = {"XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody", "RequestTimeout"}
"""Answered with status 400 although the same request may succeed."""
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_BAD_KEY = {
    "InvalidAccessKeyId": "the access key is not known: correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is not that of the access key: correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired: renew them",
    "TokenRefreshRequired": "the credentials have expired: renew them",
    "InvalidToken": "the session token is not valid: renew AWS_SESSION_TOKEN, or unset it",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
}


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, a server error, a limit, or damage in transit."""
    if isinstance(error, TimeoutError):
        return True
    if isinstance(error, FileNotFoundError | PermissionDeniedError | UnauthenticatedError | PreconditionError):
        return False
    status, code = _answer(error)
    if status is None:
        return not _CERTIFICATE.search(str(error)) and any(part in _text(error) for part in _NO_ANSWER)
    return status in (408, 429) or status >= 500 or code in _DAMAGED


def is_of_request(error: BaseException) -> bool:
    """Whether a store refused a request or did not answer: not a fault of what is stored."""
    text = _text(error)
    return is_transient(error) or any(sign.search(text) for sign in (_STATUS, _CERTIFICATE)) or _REDIRECTED in text


def explain(
    error: BaseException, path: str, what: str, waited_s: float | None = None, address: str = ""
) -> PsychRayError:
    """Return the exception that tells the user, in one line, why `path` cannot be `what` ("read", "written").

    `path` is the URI of an object, `error` one of obstore or deltalake, `waited_s` for how long it was tried, if known,
    `address` that of the server, if it is not the cloud's own.
    """
    status, code = _answer(error)
    if is_transient(error):
        waited = "" if waited_s is None else f", for {waited_s:.0f} s"
        return UnreachableError(f"{path}: cannot be {what}: {_transient(error, status, code, address)}{waited}")
    return ResultsError(f"{path}: cannot be {what}: {_permanent(error, status, code, path)}")


def _transient(error: BaseException, status: int | None, code: str, address: str) -> str:
    if status is None:
        host = _HOST.search(_text(error))
        return f"{host[0] if host else address or 'the store'} does not answer"
    if status == 429 or code == "SlowDown":
        return f"the store limits requests ({_named(status, code)})"
    return f"the store fails ({_named(status, code)})"


def _permanent(error: BaseException, status: int | None, code: str, path: str) -> str:
    if code == "NoSuchBucket":
        return f"there is no bucket {path.split('/')[2]}: create it, or correct results.root"
    if code in _BAD_KEY:
        return _BAD_KEY[code]
    if code in _OTHER_REGION or _REDIRECTED in _text(error):
        region = next((part for part in _REGION.findall(_text(error)) for part in part if part), "")
        return f"the bucket is in another region: set AWS_REGION{region and f'={region}'}"
    if _CERTIFICATE.search(str(error)):
        return "the server's certificate is not trusted: set SSL_CERT_FILE to that of its authority"
    if isinstance(error, FileNotFoundError):
        return "there is no such object"
    if isinstance(error, PreconditionError):
        return "it was replaced meanwhile"
    if status == 401 or isinstance(error, UnauthenticatedError):
        return "the credentials are not valid: correct or renew them"
    if status == 403 or isinstance(error, PermissionDeniedError):
        return f"access denied ({_named(status or 403, code)}): the credentials lack a permission"
    return f"the store refuses it ({_named(status, code)})" if status else _text(error)


def _named(status: int, code: str) -> str:
    return f"{status} {code}".strip()


def _answer(error: BaseException) -> tuple[int | None, str]:
    text = _text(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status[1]) if status else None, code[1] if code else ""


def _text(error: BaseException) -> str:
    return " ".join(_MARKS.sub(" ", str(error).partition("\n\nDebug source")[0]).split())
