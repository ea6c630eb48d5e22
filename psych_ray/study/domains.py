"""The domain of psychology of each study, and which studies are developmental.

Data of the package, and of a file of the user's beside it. Does not depend on responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import polars as pl
import yaml

from psych_ray.errors import ConfigError, first_line

_PSYCH101 = "Psych-101"
_KEYS = ("domains", "developmental", "not_in_heat_map")


@dataclass(frozen=True, kw_only=True)
class Domains:
    """What is known of studies, by name."""

    of_study: Mapping[str, str]
    """Domain by study."""
    developmental: frozenset[str]
    """Studies that compare children or adolescents with adults."""
    not_in_heat_map: frozenset[str]
    """Domains with too few studies for the published heat map."""
    psych101: frozenset[str] = frozenset()
    """Studies that were collected for Psych-101."""


def load_domains(file: str | Path | None = None) -> Domains:
    """The domains of the study, and those of `file`, which go first. ConfigError, one line, for a file that has others.

    A file has `domains`: for each domain a list of studies, or such lists under names of data sets; and, where wanted,
    the lists `developmental` and `not_in_heat_map`, which are added.
    """
    own = resources.files("psych_ray.study").joinpath("domains.yaml").read_text("utf-8")
    found = _parsed(own)
    if file is None:
        return found
    path = Path(file).expanduser()
    try:
        more = _parsed(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"study.domains={file}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else first_line(error)
        raise ConfigError(f"study.domains={file}: {reason}; it has the form of psych_ray/study/domains.yaml") from error
    return Domains(
        of_study={**found.of_study, **more.of_study},
        developmental=found.developmental | more.developmental,
        not_in_heat_map=found.not_in_heat_map | more.not_in_heat_map,
        psych101=found.psych101 | more.psych101,
    )


def with_domain(by_study: pl.DataFrame, domains: Domains) -> pl.DataFrame:
    """The table with a column `domain` after `study`; null where it is not known."""
    names = by_study.columns
    at = names.index("study") + 1
    domain = pl.col("study").replace_strict(domains.of_study, default=None, return_dtype=pl.String).alias("domain")
    return by_study.with_columns(domain).select(*names[:at], "domain", *names[at:])


def _parsed(content: str) -> Domains:
    """ValueError, or an error of YAML, for content of another form."""
    value = yaml.safe_load(content)
    if not isinstance(value, dict) or not value or any(key not in _KEYS for key in value):
        raise ValueError(f"has not the keys {', '.join(_KEYS)}, of which one at least")
    of_study: dict[str, str] = {}
    domains = value.get("domains", {})
    if not isinstance(domains, dict):
        raise ValueError("`domains` is no mapping of domains to studies")  # noqa: TRY004  one error for a wrong form
    for domain, studies in domains.items():
        for study in _studies(domain, studies):
            if of_study.setdefault(study, domain) != domain:
                raise ValueError(f"{study} is in two domains, {of_study[study]} and {domain}")
    in_psych101 = (studies.get(_PSYCH101, []) for studies in domains.values() if isinstance(studies, dict))
    return Domains(
        of_study=of_study,
        psych101=frozenset(study for studies in in_psych101 for study in studies),
        developmental=frozenset(_names("developmental", value.get("developmental", []))),
        not_in_heat_map=frozenset(_names("not_in_heat_map", value.get("not_in_heat_map", []))),
    )


def _studies(domain: object, studies: object) -> Iterator[str]:
    """The studies of a domain, listed as such or by data set."""
    if not isinstance(domain, str) or not domain.strip():
        raise ValueError(f"a domain is called {domain!r}")
    for listed in studies.values() if isinstance(studies, dict) else [studies]:
        yield from _names(domain, listed)


def _names(what: str, names: object) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`{what}` is no list of names")
    return names
