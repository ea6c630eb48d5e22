"""Whether the server of Weights & Biases answers, asked before waiting for it.

wandb tries for half a minute for each run that it opens or closes, and cannot be told to give up earlier without giving
up on a slow server too. Does not import wandb.
"""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request

ANSWER_SECONDS = 2.5


def no_answer_from(url: str, *, seconds: float = ANSWER_SECONDS) -> str | None:
    """Why there is no answer of any kind from this address within `seconds`; None where there is one.

    Uses the proxies of the environment. Does not raise.
    """
    found: list[str | None] = []

    def ask() -> None:
        found.append(_ask(url, seconds))

    # In a thread, because looking up a name has no time limit.
    thread = threading.Thread(target=ask, name="psych-ray-wandb-server", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else f"no answer within {seconds:g} s"


def _ask(url: str, seconds: float) -> str | None:
    if not url.startswith(("http://", "https://")):
        return f"{url} is no address of a server"
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310  the scheme is checked
    try:
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return None
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        # Certificates are wandb's business, which has settings for them.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
    except Exception:  # noqa: BLE001  an answer that is no HTTP
        return None
