"""Claims of a token become a caller by the issuers' file; mistakes in the file name the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.gateway.auth.caller import CallerKind
from perdure.gateway.auth.issuers import ClaimsRefused, read_issuers
from perdure.schemas.scopes import SETS, Scope

ISSUER = """
[[issuers]]
issuer = "https://id.example.com/realms/agents"
audience = ["perdure"]
tenant = "/org/id"
granted_by = "/realm_access/roles"
[issuers.grants]
"agents operator" = ["admin"]
viewer = ["runs:read", "threads:read"]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "issuers.toml"
    file.write_text(text)
    return file


def test_claims_name_the_caller(tmp_path: Path) -> None:
    (issuer,) = read_issuers(written(tmp_path, ISSUER))
    claims = {
        "sub": "ann",
        "org": {"id": "acme"},
        "realm_access": {"roles": ["viewer", "search:read", "unheard of", 7, ""]},
    }
    caller = issuer.caller_of(claims, CallerKind.JWT)
    assert (caller.tenant, caller.subject, caller.kind) == ("acme", "ann", CallerKind.JWT)
    assert caller.scopes == {Scope.RUNS_READ, Scope.THREADS_READ, Scope.SEARCH_READ}
    assert caller.details == claims
    operator = issuer.caller_of({**claims, "realm_access": {"roles": ["agents operator"]}}, CallerKind.JWT)
    assert operator.scopes == SETS["admin"]


def test_the_words_of_a_scope_claim_grant(tmp_path: Path) -> None:
    text = ISSUER.replace('granted_by = "/realm_access/roles"', "").replace('tenant = "/org/id"', 'tenant_is = "acme"')
    (issuer,) = read_issuers(written(tmp_path, text))
    assert issuer.caller_of({"sub": "a", "scope": "openid runs:write"}, CallerKind.JWT).scopes == {Scope.RUNS_WRITE}
    assert issuer.caller_of({"sub": "a"}, CallerKind.JWT).scopes == frozenset()
    (closed,) = read_issuers(
        written(tmp_path, text.replace("[issuers.grants]", "scopes_are_granted = false\n[issuers.grants]"))
    )
    assert closed.caller_of({"sub": "a", "scope": "runs:write"}, CallerKind.JWT).scopes == frozenset()


@pytest.mark.parametrize(
    "claims",
    [
        {"org": {"id": "acme"}},
        {"sub": "", "org": {"id": "acme"}},
        {"sub": 7, "org": {"id": "acme"}},
        {"sub": "a\nb", "org": {"id": "acme"}},
        {"sub": "a" * 256, "org": {"id": "acme"}},
        {"sub": "ann"},
        {"sub": "ann", "org": "acme"},
        {"sub": "ann", "org": {"id": "a b"}},
        {"sub": "ann", "org": {"id": ""}},
        {"sub": "ann", "org": {"id": ["acme"]}},
    ],
)
def test_claims_that_name_nobody_are_refused(tmp_path: Path, claims: dict[str, Any]) -> None:
    (issuer,) = read_issuers(written(tmp_path, ISSUER))
    with pytest.raises(ClaimsRefused, match="The claim /"):
        issuer.caller_of(claims, CallerKind.JWT)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (ISSUER.replace("https://id", "http://id"), "issuers.0.issuer: Value error, must begin with https://"),
        (ISSUER.replace('tenant = "/org/id"', ""), "exactly one of tenant"),
        (ISSUER.replace('tenant = "/org/id"', 'tenant = "org"'), "issuers.0.tenant: Value error, is no JSON pointer"),
        (ISSUER.replace('audience = ["perdure"]', "audience = []"), "issuers.0.audience"),
        (ISSUER.replace("audience =", 'algorithms = ["HS256"]\naudience ='), "HS256 cannot be trusted"),
        (ISSUER.replace('["admin"]', '["root"]'), "grants.agents operator: 'root' is no scope"),
        (ISSUER.replace("granted_by", "grantd_by"), "issuers.0.grantd_by"),
        (ISSUER + ISSUER, "an issuer stands here twice"),
        ("issuers = 1 = 2", "is not TOML"),
        ("", "issuers: Field required"),
    ],
)
def test_mistakes_name_the_file_and_the_field(tmp_path: Path, wrong: str, named: str) -> None:
    file = written(tmp_path, wrong)
    with pytest.raises(ConfigurationError) as mistake:
        read_issuers(file)
    assert str(file) in str(mistake.value)
    assert named in str(mistake.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"PERDURE_AUTH_ISSUERS_FILE .*missing\.toml: No such file"):
        read_issuers(tmp_path / "missing.toml")
