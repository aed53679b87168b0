"""Random texts for drawn pages: prose from corpora, figures, codes and receipts, in English and Chinese."""

import json
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from training.figures import (
    CAPITALS,
    DIGITS,
    TERMS,
    amount,
    code,
    date_and_time,
    figure,
    mark_or_heading,
    number,
    pick,
    receipt_number,
    titled,
)
from training.listings import listing

MARKS = "，。、；：？！“”（）《》…—·"
MARK_WEIGHTS = (30, 24, 20, 12, 12, 5, 5, 3, 3, 3, 3, 2, 2, 1, 1, 1)
BULLETS = frozenset("•■●▪·*")
MISREAD = (
    "0OoQDC",
    "1lI|i!tj7",
    "5Ss$",
    "8B3&",
    "2Zz7",
    "6Gb",
    "9gqy",
    "4A",
    "uvn",
    "aeoc",
    "hbk",
    "KRXH",
    "PRFT",
    "MNWH",
    "EFB",
    "@®*#$¥",
)
MISREAD_MARKS = (".,", ":;", "'`\"", "-–~_", "()[]{}", "/|\\")
WRAPS = ["(%s)", '"%s"', "'%s'", "[%s]", "“%s”", "%s's", "%s/", "%s-", "&%s", "*%s", "%s@", "<%s>", "%s=", "_%s"]


def read_table(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(path.read_text("utf8")) if path.exists() else {}
    return table


def is_chinese(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


def alphabet_of(character: str) -> str:
    """Return the characters of the same kind: digits, capital or small letters, or marks."""
    if character.isalpha():
        return CAPITALS if character.isupper() else CAPITALS.lower()
    return DIGITS if character.isdigit() else ".,:;-/()'"


class Texts:
    """Word lists and corpora of a data folder: ``lexicon.json``, ``corpus_{en,zh,mixed}.txt`` and two tables of characters.

    Attributes:
        traditional: simplified character -> traditional form, if they differ.
        look_alikes: character -> up to six characters that look similar.
    """

    def __init__(self, folder: Path) -> None:
        lexicon = json.loads((folder / "lexicon.json").read_text("utf8"))
        self.words: list[str] = lexicon["en_words"]
        self.characters: list[str] = lexicon["zh_chars"]
        self.chinese_words: list[str] = lexicon["zh_words"]
        self._cumulative = list(accumulate((frequency + 5) ** 0.5 for frequency in lexicon["zh_freq"]))
        self.corpora: dict[str, list[str]] = {}
        for language in ("en", "zh", "mixed"):
            path = folder / f"corpus_{language}.txt"
            self.corpora[language] = path.read_text("utf8").splitlines() if path.exists() else []
        self.traditional: dict[str, str] = read_table(folder / "trad.json")
        self.look_alikes: dict[str, list[str]] = read_table(folder / "confusable.json")
        self._families = list(self.look_alikes)
        self._misread: dict[str, str] = defaultdict(str)  # character -> those of all its families
        for family in (*MISREAD, *MISREAD_MARKS):
            for c in family:
                self._misread[c] += family.replace(c, "")

    # Single words and figures

    def word(self, r: Random) -> str:
        count = len(self.words)
        word = self.words[int(count ** r.random()) - 1 if r.random() < 0.6 else r.randrange(count)]
        k = r.random()
        return word if k < 0.68 else word.capitalize() if k < 0.92 else word.upper()

    def capitals(self, r: Random, count: int) -> str:
        return " ".join(self.word(r) for _ in range(count)).upper()

    def chinese_word(self, r: Random) -> str:
        return r.choices(self.chinese_words, cum_weights=self._cumulative)[0]

    def mail(self, r: Random) -> str:
        """Return an e-mail address or a link."""

        def word() -> str:
            return self.word(r).lower().replace("'", "")

        return r.choice(
            [
                f"{word()}.{word()}@{word()}.com",
                f"www.{word()}{word()}.com",
                f"https://{word()}.org/{word()}",
                f"{word()}{r.randint(1, 99)}@{word()}.net",
            ]
        )

    # Running text

    def english(self, r: Random, length: int) -> str:
        """Return random words, with punctuation, figures and codes between them."""
        out, used, style = [], 0, r.random()
        while used < length:
            k = r.random()
            word = number(r) if k < 0.06 else code(r) if k < 0.10 else self.word(r)
            if style > 0.9:
                word = word.upper()
            elif style > 0.8:
                word = word[:1].upper() + word[1:]
            if k > 0.86:
                word += r.choice([",", ".", ".", ",", ";", ":", "!", "?"])
            elif k > 0.84:
                word = r.choice(WRAPS) % word
            elif k > 0.83:
                word = r.choice(["-", "–", "—", "&", "+", "=", "|", "•", "…", "*"])
            out.append(word)
            used += len(word) + 1
        text = " ".join(out)
        return text[0].upper() + text[1:] if r.random() < 0.6 else text

    def chinese(self, r: Random, length: int) -> str:
        """Return random words, and sequences of random characters that are all equally likely."""
        out = ""
        while len(out) < length:
            k = r.random()
            if k < 0.45:
                out += self.chinese_word(r)
            elif k < 0.85:
                out += "".join(r.choice(self.characters) for _ in range(r.randint(1, 5)))
            elif k < 0.89:
                out += number(r).replace("$", "￥")
            elif k < 0.91:
                out += self.word(r)
            elif k < 0.985:
                out += r.choice("，，，。。、；：？！")
            else:
                out += r.choice(["《%s》", "（%s）", "“%s”", "【%s】", "(%s)"]) % self.chinese_word(r)
        return out

    def snippet(self, r: Random, language: str, length: int) -> str:
        """Return about ``length`` characters of a corpus, in English from the beginning of a word."""
        corpus = self.corpora[language]
        if not corpus:
            return self.english(r, length) if language == "en" else self.chinese(r, length)
        line = r.choice(corpus)
        if len(line) <= length:
            return line
        start = r.randrange(len(line) - length + 1) if r.random() < 0.75 else 0
        if language != "en":
            return line[start : start + length]
        while start > 0 and line[start - 1] != " ":
            start -= 1
        stop = min(len(line), start + length)
        while stop < len(line) and line[stop] != " " and stop - start < length + 14:
            stop += 1
        return line[start:stop]

    # Forms and tables

    def pair(self, r: Random, chinese: bool) -> tuple[str, str]:
        """Return a label and its value."""
        k = r.random()
        if chinese:
            label = r.choice(TERMS["chinese_fields"]) if r.random() < 0.5 else self.chinese_word(r)
            price = "￥" + f"{r.uniform(0, 999):.2f}"
            value = number(r) if k < 0.5 else r.choice([code(r), self.chinese(r, r.randint(2, 8)), price])
            return label + r.choice(["：", ":", "", "："]), value
        label = r.choice(TERMS["fields"]) if r.random() < 0.5 else self.english(r, r.randint(3, 12)).strip()
        if k < 0.75:
            value = number(r) if k < 0.55 else code(r)
        else:
            value = self.mail(r) if k < 0.85 else self.english(r, r.randint(4, 14))
        return (label.upper() if r.random() < 0.2 else label) + r.choice([":", "", " :", "", "#"]), value

    def entry(self, r: Random, chinese: bool) -> str:
        """Return the content of a cell of a table, a form or a receipt."""
        k = r.random()
        if k < 0.34:
            return figure(r)
        if k < 0.52:
            return number(r) if k < 0.44 else code(r)
        if k < 0.66:
            return mark_or_heading(r)
        if k < 0.72:
            return self.mail(r)
        if chinese:
            if r.random() < 0.3:
                return r.choice(TERMS["chinese_fields"])
            return self.chinese_word(r) + (self.chinese_word(r) if r.random() < 0.4 else "")
        if k < 0.80:
            return r.choice(TERMS["fields"]) + r.choice(["", ":", " #"])
        text = " ".join(self.word(r) for _ in range(r.randint(1, 3)))
        return titled(r, text) if r.random() < 0.6 else text

    # Whole lines

    def listing(self, r: Random, length: int) -> str:
        """A line of a program, of markup or of a bibliography."""
        return listing(r, self.word, length)

    def line(self, r: Random, chinese: bool, length: int) -> str:
        k = r.random()
        if not chinese and k > 0.92:
            return self.listing(r, length)
        if not chinese and k < 0.17:
            text = self.receipt(r) if k < 0.14 else self.mail(r)
            return self.misspelt(r, text) if r.random() < 0.25 else text
        text = self._plain_line(r, chinese, length)
        if not chinese:
            return self.misspelt(r, text) if r.random() < 0.28 else text
        if any(c in BULLETS for c in text) and r.random() < 0.8:  # otherwise noisy commas are read as bullets
            text = "".join(c for c in text if c not in BULLETS).strip()
        k = r.random()
        if k < 0.4:
            text = self.dense_marks(r, text)
        if self.look_alikes and r.random() < 0.2:
            text = self.look_alike(r, text)
        if k > 0.97:
            text = text.translate(str.maketrans("，。：；", ",.:;"))
        return text

    def _plain_line(self, r: Random, chinese: bool, length: int) -> str:
        language, k = "zh" if chinese else "en", r.random()
        if length <= 14 and k < 0.6:
            text = self.entry(r, chinese)
        elif k < 0.62:
            text = self.snippet(r, "mixed" if chinese and r.random() < 0.12 else language, length)
        elif k < 0.72:
            text = self.chinese(r, length) if chinese else self.english(r, length)
        elif k < 0.80:
            text = titled(r, self.snippet(r, language, length))
        elif k < 0.90:
            text = " ".join(self.pair(r, chinese)) + ("  " + self.entry(r, chinese) if r.random() < 0.3 else "")
        else:
            text = " ".join(self.entry(r, chinese) for _ in range(r.randint(1, max(1, length // 8))))
        if r.random() < 0.04:
            text = r.choice(["• ", "- ", "* ", "1. ", "(a) ", "2) ", "■ ", "● ", "– ", "[1] ", "10. "]) + text
        if r.random() < 0.02:
            text += " " + "." * r.randint(3, 30) + " " + str(r.randint(1, 400))
        return " ".join(text.replace("\u3000", " ").split())

    def dense_marks(self, r: Random, text: str) -> str:
        """Return the text with punctuation between its characters, much more often than in prose."""
        out, left = "", r.randint(1, 6)
        for c in text:
            if c in MARKS and r.random() < 0.5:
                continue
            out += c
            left -= 1
            if left <= 0 and is_chinese(c):
                out += r.choices(MARKS, MARK_WEIGHTS)[0]
                left = r.randint(1, 7)
        return out

    def misspelt(self, r: Random, text: str) -> str:
        """Replace, drop, double or exchange some characters, so that no word can be guessed from its beginning."""
        out, share = "", r.uniform(0.02, 0.2)
        for c in text:
            if c == " " or r.random() >= share:
                out += c
                continue
            k = r.random()
            if k < 0.45 and c in self._misread:
                out += r.choice(self._misread[c])
            elif k < 0.7:
                out += r.choice(alphabet_of(c))
            elif k < 0.8:
                out += c + c
            elif k < 0.9 and out and out[-1] != " ":
                out = out[:-1] + c + out[-1]
        return " ".join(out.split()) or text

    def look_alike(self, r: Random, text: str) -> str:
        """Replace characters by others that look similar, or return a sequence from families of look-alikes."""
        if r.random() >= 0.35:
            share = r.uniform(0.1, 0.5)
            return "".join(
                r.choice(self.look_alikes[c]) if c in self.look_alikes and r.random() < share else c for c in text
            )
        out, head = "", r.choice(self._families)
        while len(out) < max(2, len(text)):
            out += r.choice([head, *self.look_alikes[head]])
            if r.random() < 0.5:
                head = r.choice(self.look_alikes[head]) if r.random() < 0.4 else r.choice(self._families)
            if head not in self.look_alikes:
                head = r.choice(self._families)
        return out

    def receipt(self, r: Random) -> str:
        """Return one printed line of a receipt or an invoice."""
        k = r.random()
        if k < 0.12:
            unit = r.choice(["x", "X", "@", "*", "PCS", "UNIT X"])
            return f"{r.randint(1, 99)} {unit} {amount(r)} {amount(r)}" + r.choice(["", " SR", " S", " ZRL", " *", " T"])
        if k < 0.26:
            goods = self.capitals(r, r.randint(1, 3))
            return f"{goods} {r.choice(['', 'RM', 'RM ', '$', ''])}{amount(r)}" + r.choice(["", "", " SR", " S", " T"])
        if k < 0.34:
            return (
                r.choice(TERMS["sums"]) + r.choice(["", ":", " :", " "]) + " " + r.choice(["", "RM", "-", "$"]) + amount(r)
            )
        if k < 0.52:
            return receipt_number(r) if k < 0.42 else date_and_time(r)
        if k < 0.60:
            house = f"{r.randint(1, 199)}{r.choice(['', 'A', f'-{r.randint(1, 40)}', 'G'])}"
            road = r.choice(["JALAN", "JLN", "Jalan", "LORONG", "ST.", "PERSIARAN", "ROAD"])
            end = f"{r.randint(1, 30)}{r.choice(['', f'/{r.randint(1, 20)}', ','])}"
            return f"{r.choice(['NO.', 'NO ', 'LOT ', '', 'No. '])}{house}, {road} {self.capitals(r, r.randint(1, 2))} {end}"
        if k < 0.66:
            town = self.capitals(r, r.randint(1, 3))
            return f"{r.randint(10000, 99999)} {town}" + r.choice(["", ",", ".", ", SELANGOR", ", JOHOR."])
        if k < 0.76:
            return self.mail(r)
        if k < 0.82:
            return pick(r, DIGITS, r.randint(6, 14)) + r.choice(["", " ", " " + self.capitals(r, 2)])
        if k < 0.88:
            goods = self.capitals(r, r.randint(1, 3))
            return f"{r.randint(1, 20)}. {goods} {r.randint(1, 12)} {amount(r)} {amount(r)}"
        if k < 0.94:
            name = titled(r, self.capitals(r, r.randint(2, 5)).lower())
            return name + r.choice(["", " SDN BHD", " (M) SDN. BHD.", "!", " LTD"])
        return f"{r.choice(['#', '*', '(', '['])}{code(r)} {amount(r)}"
