"""The search language: texts, trees, and mistakes with their positions."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.gateway.search.language import (
    OPERATORS,
    And,
    Field,
    Node,
    Not,
    Or,
    QuerySyntaxError,
    Text,
    Value,
    parse,
    show,
)


def one(name: str, value: str, operator: str = ":") -> Field:
    return Field(name, operator, (Value(value),))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("  ", None),
        ("reset", Text("reset")),
        ("conn*", Text("conn", prefix=True)),
        ('"connection reset"', Text("connection reset")),
        (r'"a \"b\" \\"', Text(r'a "b" ' + "\\")),
        ("a b", And((Text("a"), Text("b")))),
        ("a AND b", And((Text("a"), Text("b")))),
        ("a OR b c", Or((Text("a"), And((Text("b"), Text("c")))))),
        ("a | b", Or((Text("a"), Text("b")))),
        ("(a OR b) c", And((Or((Text("a"), Text("b"))), Text("c")))),
        ("-a NOT b", And((Not(Text("a")), Not(Text("b"))))),
        ("-(a b)", Not(And((Text("a"), Text("b"))))),
        ("well-known", Text("well-known")),
        ("step>10", one("step", "10", ">")),
        ("duration>=5m", one("duration", "5m", ">=")),
        ("status:error,stuck", Field("status", ":", (Value("error"), Value("stuck")))),
        ('node:"Log in"', one("node", "Log in")),
        ('node:"Log in"*,b', Field("node", ":", (Value("Log in", prefix=True), Value("b")))),
        ("wait:*", Field("wait", ":", (Value("", prefix=True),))),
        ("since:2026-11-20T10:00:00+02:00", one("since", "2026-11-20T10:00:00+02:00")),
        ("metadata.customer-id:42", one("metadata.customer-id", "42")),
        (
            'node:Login status:stuck since:yesterday "connection reset"',
            And((one("node", "Login"), one("status", "stuck"), one("since", "yesterday"), Text("connection reset"))),
        ),
    ],
    ids=str,
)
def test_texts_and_their_trees(text: str, tree: Node | None) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("(a b", 0, "not closed"),
        ("a (b (c)", 2, "not closed"),
        ("a)", 1, "closes nothing"),
        ('x "abc', 2, "quote is not closed"),
        ("a OR", 4, "missing"),
        ("a OR OR b", 5, "missing"),
        ("AND a", 0, "missing"),
        ("a NOT", 5, "missing"),
        ("()", 1, "missing"),
        ("step> 10", 5, "a value is missing after step>"),
        ("status:a,", 9, "a value is missing"),
        ('node:""', 5, "nothing between"),
        ("a *", 2, "words are missing"),
        ("(" * 31 + "a" + ")" * 31, 31, "30 deep"),
    ],
)
def test_mistakes_have_positions(text: str, position: int, says: str) -> None:
    with pytest.raises(QuerySyntaxError) as refused:
        parse(text)
    assert refused.value.position == position
    assert says in refused.value.detail


texts = st.text(min_size=1, max_size=12)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,8}", fullmatch=True) | st.just("metadata.customer-id")
values = st.builds(Value, texts, st.booleans()) | st.just(Value("", prefix=True))
fields = st.builds(Field, names, st.sampled_from(OPERATORS), st.lists(values, min_size=1, max_size=3).map(tuple))
words = st.builds(Text, texts | st.sampled_from(["AND", "OR", "NOT", "-x", "a:b", "*", "a*"]), st.booleans())


def combined(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, inner) | st.builds(And, several) | st.builds(Or, several)


trees: st.SearchStrategy[Node] = st.recursive(words | fields, combined, max_leaves=12)


@given(trees)
@example(Field("at", ">", (Value("=1"),)))
def test_what_is_shown_reads_the_same(tree: Node) -> None:
    assert parse(show(tree)) == tree


@settings(max_examples=500)
@given(st.text() | st.text(alphabet='()"|-*:<>=,\\ aORNTD'))
def test_nothing_but_a_syntax_error_comes_of_any_text(text: str) -> None:
    position = 0
    try:
        parse(text)
    except QuerySyntaxError as error:
        position = error.position
    assert 0 <= position <= len(text)
