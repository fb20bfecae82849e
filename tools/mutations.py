"""One-line errors for C++: where a rule may change a source, and into what. tools/mutate.py builds and tests them.

It reads tokens, and needs the layout that clang-format gives: operators of two operands have a space on both sides,
while `<` and `>` of templates, `*` and `&` of types and signs of one operand have not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

TOKEN = re.compile(
    r"""(?P<none>//[^\n]*|/\*.*?\*/|^[ ]*\#(?:[^\n]*\\\n)*[^\n]*|\s+)
      | (?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<number>0[xX][\da-fA-F.]+(?:[pP][+-]?\d+)?\w*|\d[\d.]*(?:[eE][+-]?\d+)?\w*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>->|::|\+\+|--|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|<<|(?<=[ ])>>|.)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
PAIRS = {"(": ")", "[": "]", "{": "}"}

# Names that stand for each other: a group a line. To these come the names of each enum of the file.
SIBLINGS = """
i f g o d                       r z n q
da_i da_f da_d da_o             dc dc_prev
d_hh d_ih                       x_hh x_ih
HH IH GATES                     GAIN_IH GAIN_HH BIAS_IH BIAS_HH
PI PF PO PD QD                  P_HH P_IH
I F G O C                       sigmoid tanh
slot vector                     set_c set_h
set_dc set_direct               dc dc_given
h_prev c_prev slots_prev below slots
first last                      rows tiles
row0 row1                       tile0 tile1
k0 k1                           row tile
t row                           input hidden
seq_len batch                   units hidden
gates recurrent_gates           matrix_gates matrix_depth
gates depth                     width stride
weight_ih weight_hh             bias_ih bias_hh
ih hh                           ih_t hh_t
b_ih b_hh                       bias_pre bias_rec
pre rec                         gradient_first gradient_last
dbias_ih dbias_hh               dweight_ih dmatrix
dy dc                           state0 state_n
dstate0 dstate_n                time_before time_after
is_first is_last                here prev next before
take_matrix take_vector         in_dy in_dc
from to                         source slots
from_row to_row                 from_tile to_tile
panel_x panel_h                 steps chunks
forward backward                infer train
f32 f64                         pack_f32 pack_f64
lanes_f32 lanes_f64             row_parts tile_parts
min max                         zip_low zip_high
"""
# Parts of the names of instructions that stand for each other.
INSTRUCTIONS = [
    ("_add_", "_sub_"),
    ("_mul_", "_add_"),
    ("_fmadd_", "_fnmadd_"),
    ("_min_", "_max_"),
    ("_unpacklo_", "_unpackhi_"),
    ("_andnot_", "_and_"),
    ("_maskz_loadu_", "_loadu_"),
]
SIGNS = {"+": "-", "-": "+", "+=": "-=", "-=": "+="}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
ASSIGNMENTS = ("=", "+=", "-=", "*=", "/=", "++", "--")
# Nothing but time depends on these: lines, and bodies of functions and structs.
SPEED_LINES = re.compile(
    r"prefetch|\bfetch|next_(tile|gate)|part\.next|\bnext \+=|\bahead\b|tile_after|backwards"
    r"|k(Ahead|SpinTime|WorthSharing|Keep)\b|k(\w+Bytes|RowBlock|ColumnBlock|BlockGroups|Rows|Run) ="
)
SPEED_BODIES = ("Machine", "fetch_end", "pause", "cost")
GPU_BODIES = ("describe_cell",)  # and nothing but the code for GPUs on these
NEAR = 1500  # characters around a name, in which another must stand to take its place: else it would hardly compile
PARAMETER = re.compile(r"(const |auto|[\w:]+[*&]* \w+$|(bool|int)$|.*;)", re.DOTALL)
KEYWORDS = re.compile("return|using|const|static|throw|case|default|delete|if|else|for|while|do|switch|break|new|auto")


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Edit:
    """text[start:end] becomes `new`."""

    start: int
    end: int
    new: str


@dataclass
class Source:
    """The tokens of a file. `partner` leads from a bracket to the one that it belongs to."""

    text: str
    tokens: list[Token] = field(default_factory=list)
    partner: dict[int, int] = field(default_factory=dict)
    siblings: dict[str, set[str]] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for m in TOKEN.finditer(self.text):
            if m.lastgroup and m.lastgroup != "none":
                self.tokens.append(Token(m.lastgroup, m.group(), m.start()))
        self.tokens.append(Token("end", "", len(self.text)))
        self.partner = self.find_partners()
        self.siblings = self.find_siblings()
        self.skipped = self.find_skipped()

    def __getitem__(self, i: int) -> str:
        return self.tokens[i].text

    def kind(self, i: int) -> str:
        return self.tokens[i].kind

    def between(self, first: int, end: int) -> str:
        """The text of tokens first..end-1."""
        return self.text[self.tokens[first].start : self.tokens[end - 1].end]

    def replace(self, first: int, end: int, new: str) -> Edit:
        return Edit(self.tokens[first].start, self.tokens[end - 1].end, new)

    def line(self, i: int) -> str:
        at = self.tokens[i].start
        return self.text[self.text.rfind("\n", 0, at) + 1 : self.text.find("\n", at)]

    def binary(self, i: int) -> bool:
        t = self.tokens[i]
        return self.text[t.start - 1] == " " and self.text[t.end] in " \n" and self[i - 1] not in ("operator", "(", ",")

    def opens_template(self, i: int) -> bool:
        return self[i] == "<" and not self.binary(i) and self[i - 1] != "operator"

    def find_partners(self) -> dict[int, int]:
        partner: dict[int, int] = {}
        stack: list[int] = []
        for i, token in enumerate(self.tokens):
            if token.text in PAIRS or self.opens_template(i):
                stack.append(i)
            elif stack and token.text == PAIRS.get(self[stack[-1]], ">") and not (token.text == ">" and self.binary(i)):
                partner[i] = stack.pop()
                partner[partner[i]] = i
        return partner

    def find_siblings(self) -> dict[str, set[str]]:
        groups = [group.split() for line in SIBLINGS.strip().splitlines() for group in re.split(r"\s{2,}", line)]
        for body in re.findall(r"\benum\b[^{};]*\{([^}]*)\}", self.text):
            groups.append(re.findall(r"(?:^|,)\s*([A-Za-z]\w*)", re.sub(r"//.*", "", body)))
        found: dict[str, set[str]] = {}
        for group in groups:
            for name in group:
                found.setdefault(name, set()).update(set(group) - {name})
        return found

    def find_skipped(self) -> set[int]:
        """Tokens that no rule changes: texts of errors, templates, what only costs time."""
        skipped: set[int] = set()
        for i, token in enumerate(self.tokens[:-1]):
            if token.text in ("throw", "assert", "static_assert", "using", "enum") and token.kind == "name":
                skipped.update(range(i, next(j for j in range(i, len(self.tokens)) if self[j] in (";", ""))))
            if self.opens_template(i):
                skipped.update(range(i, self.partner.get(i, i) + 1))
            if token.text in SPEED_BODIES + GPU_BODIES:
                body = next((j for j in range(i, len(self.tokens)) if self[j] in ("{", ";", "")), i)
                skipped.update(range(i, self.partner.get(body, body) + 1))
            if SPEED_LINES.search(self.line(i)):
                skipped.add(i)
        return skipped

    def primary_end(self, i: int) -> int:
        """The first token behind the operand that begins with token i."""
        while self[i] in ("-", "!", "*", "&", "++", "--"):
            i += 1
        if self[i] not in PAIRS and self.kind(i) == "mark":
            return i
        i = self.partner[i] + 1 if self[i] in PAIRS else i + 1
        while self[i] in ("(", "[", ".", "->", "::") or self.opens_template(i):
            i = self.partner[i] + 1 if i in self.partner else i + 2
        return i

    def term_end(self, i: int) -> int:
        """The same for a product of operands."""
        i = self.primary_end(i)
        while self[i] in ("*", "/", "%") and self.binary(i):
            i = self.primary_end(i + 1)
        return i

    def primary_start(self, end: int) -> int:
        """The first token of the operand that ends before token `end`."""
        i = end - 1
        while True:
            if self[i] in (")", "]", ">") and i in self.partner:
                i = self.partner[i]
                called = self.kind(i - 1) == "name" and not KEYWORDS.fullmatch(self[i - 1])
                if not called and i - 1 not in self.partner:
                    return i
                i -= 1
            elif self[i - 1] in (".", "->", "::"):
                i -= 2
            else:
                return i

    def arguments(self, opening: int) -> list[tuple[int, int]]:
        """(first, end) of the arguments in a bracket."""
        parts, first, i = [], opening + 1, opening + 1
        while i < self.partner[opening]:
            if self[i] == ",":
                parts.append((first, i))
                first = i + 1
            i = self.partner.get(i, i) + 1
        return [*parts, (first, i)] if i > first else parts


Rule = Callable[[Source, int], Iterator[Edit]]


def sign(s: Source, i: int) -> Iterator[Edit]:
    """+ and -, += and -=, - and nothing, fma and fnma, instructions."""
    text = s[i]
    if text in SIGNS and s.binary(i) and '"' not in s.line(i):
        yield s.replace(i, i + 1, SIGNS[text])
    elif text == "-" and s[i - 1] in ("(", ",", "=", "{", "return", "?", ":", "<", "["):
        yield s.replace(i, i + 1, "")
    elif text in ("fma", "fnma") and s[i + 1] == "(" and s.kind(i - 1) != "name":
        yield s.replace(i, i + 1, {"fma": "fnma", "fnma": "fma"}[text])
    for pair in INSTRUCTIONS if text.startswith("_mm") else []:
        for old, new in (pair, pair[::-1]):
            if old in text:
                yield s.replace(i, i + 1, text.replace(old, new))


def comparison(s: Source, i: int) -> Iterator[Edit]:
    """< and <=, > and >=, == and !=; and what is compared with, one more or less."""
    if s[i] not in COMPARISONS or not s.binary(i):
        return
    yield s.replace(i, i + 1, COMPARISONS[s[i]])
    if s[i] not in ("==", "!=") and s.kind(i + 1) != "number":
        end = s.term_end(i + 1)
        for change in (" + 1", " - 1"):
            yield s.replace(i + 1, end, s.between(i + 1, end) + change)


def index(s: Source, i: int) -> Iterator[Edit]:
    """An element beside the one meant."""
    if s[i] != "[" or s[i + 1] == "]" or s.kind(i - 1) != "name" or s[i - 1] in ("operator", "return"):
        return
    if s.kind(i - 2) == "name" or (s[i - 2] in ("*", "&", ">") and not s.binary(i - 2)):
        return  # a declaration
    inside = s.between(i + 1, s.partner[i])
    if re.fullmatch(r"k[A-Z]\w*( \+ 1)?", inside):
        return  # one of several
    yield s.replace(i + 1, s.partner[i], str(int(inside) + 1) if inside.isdigit() else inside + " + 1")
    if not inside.isdigit():
        yield s.replace(i + 1, s.partner[i], inside + " - 1")


def gate(s: Source, i: int) -> Iterator[Edit]:
    """Another gate, slot or name of the same kind."""
    declares = s.kind(i - 1) == "name" and s[i - 1] not in ("return", "case", "else")
    declares = declares or (s[i - 1] in ("*", "&", ">") and not s.binary(i - 1)) or s[i + 1] in ("=", "{")
    near = s.text[max(0, s.tokens[i].start - NEAR) : s.tokens[i].end + NEAR]
    for other in sorted(s.siblings.get(s[i], ())) if not declares else []:
        if re.search(rf"\b{other}\b", near):
            yield s.replace(i, i + 1, other)


def term(s: Source, i: int) -> Iterator[Edit]:
    """A sum without a term, a product without a factor, a condition without a part."""
    text = s[i]
    if text in ("+", "-", "*", "&&", "||") and s.binary(i) and '"' not in s.line(i):
        end = s.term_end(i + 1) if text in ("+", "-") else s.primary_end(i + 1)
        if text in ("&&", "||"):
            while s[end] not in ("&&", "||", ")", ";", ",", "?", ":", "}"):
                end = s.partner.get(end, end) + 1
        yield s.replace(i, end, "")
        if text in ("+", "*"):
            yield s.replace(s.primary_start(i), i + 1, "")
    if text == "fma" and s[i + 1] == "(" and s.kind(i - 1) != "name" and len(s.arguments(i + 1)) == 3:
        a, b, c = (s.between(*part) for part in s.arguments(i + 1))
        for new in (f"(({a}) * ({b}))", f"({c})", f"(({a}) + ({c}))", f"(({b}) + ({c}))"):
            yield s.replace(i, s.partner[i + 1] + 1, new)


def statement(s: Source, i: int) -> Iterator[Edit]:
    """No assignment, no call."""
    headed = s[i - 1] == ")" and s[s.partner.get(i - 1, 0) - 1] in ("if", "constexpr", "for", "while")
    begins = headed or s[i - 1] in (";", "{", "}", "else")
    if not begins or s.kind(i) not in ("name", "mark") or KEYWORDS.fullmatch(s[i]) or s[i] in ("{", "}", ";", ":"):
        return
    end = s.primary_end(i)
    called = s[end - 1] == ")"
    while end < len(s.tokens) - 1 and s[end] != ";":
        if (s[end] not in ASSIGNMENTS and end == s.primary_end(i)) or s[end] in (")", "default", "delete"):
            return  # a declaration, or the head of a loop
        called = True
        end = s.partner.get(end, end) + 1
    if called:
        yield s.replace(i, end, "")


def kind_of(argument: str) -> str:
    """Arguments of other kinds would not compile in each other's place."""
    kinds = {"constant": r"-?\d.*|(\w+::)?(k[A-Z]\w*|[A-Z_]+)", "enumerator": r"From::\w+", "text": r'".*', "at": "at"}
    return next((kind for kind, pattern in kinds.items() if re.fullmatch(pattern, argument)), "other")


def arguments(s: Source, i: int) -> Iterator[Edit]:
    """Two arguments of a kind, or members of a list, in each other's place."""
    if s[i] not in ("(", "{") or i not in s.partner or (s[i] == "(" and s.kind(i - 1) != "name"):
        return
    parts = s.arguments(i)
    if any(PARAMETER.match(s.between(*p)) for p in parts):
        return  # a body, or parameters
    for n, (a, b) in enumerate(pairwise(parts)):
        x, y = s.between(*a), s.between(*b)
        if x != y and kind_of(x) == kind_of(y) and not (n == 0 and s[i - 1] in ("fma", "fnma", "min", "max")):
            yield s.replace(a[0], b[1], f"{y}, {x}")


def condition(s: Source, i: int) -> Iterator[Edit]:
    """The opposite condition."""
    if s[i] == "(" and s[i - 1] in ("if", "while", "constexpr") and ";" not in s.between(i, s.partner[i]):
        yield s.replace(i, s.partner[i] + 1, f"(!{s.between(i, s.partner[i] + 1)})")
    if s[i] == "?" and s.kind(i) == "mark":
        first = i
        while s[first - 1] not in ("=", "(", ",", "return", "{", ";", "?", ":", "[", "+=", "<<"):
            first = s.partner.get(first - 1, first - 1)
        yield s.replace(first, i, f"!({s.between(first, i)})")


def boolean(s: Source, i: int) -> Iterator[Edit]:
    """true and false."""
    if s[i] in ("true", "false"):
        yield s.replace(i, i + 1, "false" if s[i] == "true" else "true")


def constant(s: Source, i: int) -> Iterator[Edit]:
    """Another number: the next, the one before, or, of a fraction, one that begins otherwise."""
    if s.kind(i) != "number" or s[i - 1] == "[":
        return
    if s[i].isdigit():
        for n in (int(s[i]) + 1, int(s[i]) - 1):
            if n >= 0:
                yield s.replace(i, i + 1, str(n))
    elif fraction := re.search(r"\.[\da-fA-F]", s[i]):
        at = fraction.start() + 1
        digit = "1" if s[i][at] != "1" else "2"
        yield s.replace(i, i + 1, s[i][:at] + digit + s[i][at + 1 :])


RULES: tuple[Rule, ...] = (
    sign, comparison, index, gate, term, statement, arguments, condition, boolean, constant,
)  # fmt: skip


def edits(text: str) -> Iterator[tuple[str, Edit]]:
    """Every change that a rule may make to a source, within a line."""
    source = Source(text)
    for i in range(1, len(source.tokens) - 1):
        if i in source.skipped:
            continue
        for rule in RULES:
            for edit in rule(source, i):
                if "\n" not in text[edit.start : edit.end]:
                    yield rule.__name__, edit
