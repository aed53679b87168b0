"""Lines of programs, markup and references: identifiers, macros, brackets, operators, ranges of pages."""

from collections.abc import Callable
from random import Random

from training.figures import CAPITALS, DIGITS, TERMS, pick

Word = Callable[[Random], str]
LETTERS = "NnpTFwoxVcefDv"
OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "&&", "||", "+=", ":=", "->", "=>", "|", "^")
LOOK_ALIKES = ("l", "1", "I", "l1", "1l", "ll", "11", "il", "O0", "0", "_l", "_1")  # told apart by the font alone
BRACKETS = ("{", "}", "(", ")", "[", "]", "};", "});", "):", "/*", "*/", "//", "#", "<!", "<*", "</", "...", "::")
PARAMETERS = ("#1", "#2", "#3", "##1", "{#1}", "{ #2 }", "%", "~", "@", "&", "$", "?", "!", "*", "'", "`", "\\\\")
PATHS = ("/usr/share/", "~/", "./", "../", "C:\\", "/etc/", "texmf/", "src/", "CTAN:", "https://", "ftp://")
ENDINGS = (".tex", ".sty", ".py", ".c", ".h", ".txt", ".pdf", ".mp", ".json", ".cfg", ".sh", ".log", ".bib", ".html", "")


def stem(r: Random, word: Word) -> str:
    text = "".join(c for c in word(r).lower() if c.isalnum())
    return text[: r.randint(1, 8)] or "x"


def name(r: Random, word: Word) -> str:
    """An identifier."""
    parts = [stem(r, word) for _ in range(r.choice((1, 1, 2, 2, 3)))]
    k = r.random()
    if k < 0.35:
        text = "_".join(parts)
    elif k < 0.55:
        text = parts[0] + "".join(part.capitalize() for part in parts[1:])
    elif k < 0.65:
        text = "_".join(parts).upper()
    elif k < 0.75:
        text = ".".join(parts)
    else:
        text = "".join(parts)
    k = r.random()
    if k < 0.06:
        text = "__" + text + ("__" if r.random() < 0.5 else "")
    elif k < 0.12:
        text = "_" + text
    elif k < 0.24:
        text += str(r.randint(0, 99))
    elif k < 0.29:
        text += r.choice(LOOK_ALIKES)
    elif k < 0.32:
        text = f"{text}{r.choice(('__', '--', '___'))}{stem(r, word)}"
    return text


def macro(r: Random, word: Word) -> str:
    """A control sequence of TeX."""
    k = r.random()
    if k < 0.35:
        text = r.choice(TERMS["tex"])
    elif k < 0.6:
        text = stem(r, word) + r.choice(("", "", "@" + stem(r, word), stem(r, word).capitalize()))
    else:
        text = r.choice(("", "", "__", "l_", "c_", "g_")) + "_".join(stem(r, word) for _ in range(r.randint(1, 4)))
        text += r.choice(("", ":" + pick(r, LETTERS, r.randint(0, 4)), ":w", ":nw", "_tl", "_int", "_aux:NNw"))
    return "\\" + text


def value(r: Random, word: Word) -> str:
    k = r.random()
    if k < 0.25:
        return name(r, word)
    if k < 0.4:
        return str(r.randint(0, 10 ** r.randint(1, 5)))
    if k < 0.48:
        return f"{r.uniform(-10, 100):.{r.randint(1, 4)}f}" + r.choice(("", "", "pt", "em", "ex", "cm", "f", "px"))
    if k < 0.56:
        mark = r.choice("\"\"''")
        return mark + name(r, word) + mark
    if k < 0.64:
        return f"{name(r, word)}[{r.choice(('i', 'j', '0', 'n-1', 'i+1', 'k', name(r, word)))}]"
    if k < 0.76:
        return f"{name(r, word)}({', '.join(name(r, word) for _ in range(r.randint(0, 2)))})"
    if k < 0.82:
        return f"0x{pick(r, '0123456789abcdefABCDEF', r.randint(2, 8))}"
    if k < 0.9:
        return r.choice(PARAMETERS)
    return f"({r.choice('xyzabn')}{r.randint(1, 9)}{r.choice('+-*/,')}{r.choice('xyzabn')}{r.randint(1, 9)})"


def tex_line(r: Random, word: Word, length: int) -> str:
    out, spaced = "", r.random() < 0.4
    gap = " " if spaced else ""
    while len(out) < length:
        k = r.random()
        if k < 0.4:
            out += macro(r, word) + (" " if spaced or r.random() < 0.3 else "")
        elif k < 0.55:
            inner = r.choice((stem(r, word), macro(r, word), "#1", value(r, word), ""))
            out += "{" + gap + inner + gap + "}" + gap
        elif k < 0.62:
            out += "[" + name(r, word) + r.choice(("", "=" + value(r, word))) + "]"
        elif k < 0.7:
            out += r.choice(("{", "}", "{{", "}}", "{%", "}%", "~", "#1", "##1", "=", "&", "$", "^", "_", "%")) + gap
        elif k < 0.85:
            out += word(r) + r.choice((" ", " ", ",", ".", "~", "-"))
        else:
            out += value(r, word) + " "
    return out


def program_line(r: Random, word: Word, length: int) -> str:
    out = ""
    while len(out) < length:
        k = r.random()
        if k < 0.3:
            out += f"{name(r, word)} {r.choice(OPERATORS)} {value(r, word)}"
        elif k < 0.5:
            out += f"{name(r, word)}({', '.join(value(r, word) for _ in range(r.randint(0, 3)))})"
        elif k < 0.7:
            out += r.choice(TERMS["program"]) + " " + value(r, word)
        elif k < 0.8:
            out += r.choice(BRACKETS)
        elif k < 0.9:
            out += f"{name(r, word)}{r.choice((': ', '=', ' = ', ':'))}{value(r, word)}"
        else:
            out += word(r)
        out += r.choice((" ", " ", " ", ", ", "; ", ";", "."))
    return out


def markup_line(r: Random, word: Word, length: int) -> str:
    """Options of a command, tags and keys."""
    out = ""
    while len(out) < length:
        k, tag = r.random(), name(r, word)
        if k < 0.2:
            out += r.choice((f"<{tag}>", f"</{tag}>", f"<{tag}/>", f'<{tag} {stem(r, word)}="{stem(r, word)}">', f"⟨{tag}⟩"))
        elif k < 0.35:
            out += f'"{tag}": {value(r, word)}, '
        elif k < 0.55:
            out += r.choice(("-", "--", "--", "/")) + tag.replace("_", "-") + r.choice((" ", "=")) + stem(r, word) + " "
        elif k < 0.75:
            folders = "/".join(stem(r, word) for _ in range(r.randint(1, 4)))
            out += r.choice(PATHS) + folders + r.choice(ENDINGS) + r.choice((" ", ": ", ", "))
        elif k < 0.85:
            out += r.choice(("$ ", "% ", "> ", ">>> ", "# ", "| ", "&& ", "; ")) + stem(r, word) + " "
        else:
            out += word(r) + " "
    return out


def reference_line(r: Random, word: Word, length: int) -> str:
    """An entry of a bibliography or an index."""

    def author() -> str:
        initials = [f"{r.choice(CAPITALS)}." for _ in range(r.randint(1, 2))]
        return f"{r.choice((' ', '-')).join(initials)} {stem(r, word).capitalize()}"

    def pages() -> str:
        first = r.randint(1, 2500)
        return f"{first}{r.choice('–––-—')}{first + r.randint(1, 60)}"

    out = r.choice(("", "", f"[{r.randint(1, 99)}] ", f"{r.randint(1, 99)}. "))
    while len(out) < length:
        k = r.random()
        if k < 0.25:
            out += author() + r.choice((", ", " and ", ": ", ". ", ", and "))
        elif k < 0.5:
            out += " ".join(word(r) for _ in range(r.randint(2, 4))) + r.choice((". ", ", ", ": "))
        elif k < 0.65:
            journal = f"{word(r).capitalize()}. {stem(r, word).capitalize()}. "
            out += f"{journal}{r.randint(1, 99)}({r.randint(1, 12)}):{pages()}, "
        elif k < 0.8:
            out += r.choice(("pp. ", "pages ", "p. ", "", "", "§", "Vol. ")) + pages() + r.choice((", ", ". ", "; "))
        elif k < 0.9:
            out += r.choice((f"({r.randint(1950, 2025)}). ", f"{r.randint(1950, 2025)}. ", f"{pick(r, DIGITS, 4)}, "))
        else:
            leader = r.choice((" ... ", " . . . . . "))
            out += r.choice((f"{word(r)}{leader}{r.randint(1, 400)}, ", "et al., ", "Lett. "))
    return out


def listing(r: Random, word: Word, length: int) -> str:
    """A line of about so many characters."""
    kind = r.choices((tex_line, program_line, markup_line, reference_line), (34, 30, 18, 18))[0]
    text = kind(r, word, length)[: length + r.randint(0, 12)]
    if r.random() < 0.12:
        text = f"{r.randint(1, 999)} {text}"
    return " ".join(text.split())
