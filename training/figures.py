"""Random figures and codes in printed form: prices, dates, times, telephone numbers and order numbers."""

import json
from pathlib import Path
from random import Random

TERMS: dict[str, list[str]] = json.loads(Path(__file__).with_name("terms.json").read_text("utf8"))
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"


def pick(r: Random, alphabet: str, count: int) -> str:
    return "".join(r.choice(alphabet) for _ in range(count))


def titled(r: Random, text: str) -> str:
    k = r.random()
    return text.upper() if k < 0.4 else text.title() if k < 0.8 else text


def amount(r: Random) -> str:
    return f"{r.uniform(0, 10 ** r.randint(1, 4)):,.2f}"


def money(r: Random) -> str:
    value = r.choice([r.uniform(0, 10), r.uniform(0, 100), r.uniform(0, 1000), r.uniform(0, 1e5)])
    sign = r.choice(["$", "", "", "€", "£", "¥", "USD ", "RM", "$ "])
    return sign + (f"{value:,.2f}" if r.random() < 0.85 else f"{int(value):,}")


def number(r: Random) -> str:
    """Return a price, a date, a time, a percentage, a telephone number or a quantity."""
    k = r.randrange(12)
    if k < 3:
        return money(r)
    if k == 3:
        return f"{r.randint(1990, 2035)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
    if k == 4:
        return f"{r.choice(TERMS['months'])} {r.randint(1, 28)}, {r.randint(1990, 2035)}"
    if k == 5:
        return f"{r.randint(1, 28):02d}/{r.randint(1, 12):02d}/{r.randint(1990, 2035)}"
    if k == 6:
        return f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}" + r.choice(["", f":{r.randint(0, 59):02d}", " AM", " PM"])
    if k == 7:
        return f"{r.uniform(0, 100):.{r.randint(0, 2)}f}%"
    if k == 8:
        first, middle, last = r.randint(200, 999), r.randint(200, 999), r.randint(0, 9999)
        forms = [f"({first}) {middle}-{last:04d}", f"{first}-{middle}-{last:04d}", str(r.randint(13000000000, 19999999999))]
        return r.choice(["+1 ", "", "+86 ", "+44 "]) + r.choice(forms)
    if k == 9:
        return str(r.randint(0, 10 ** r.randint(1, 12)))
    if k == 10:
        return f"{r.randint(1, 99)} x {money(r)}"
    unit = r.choice([" kg", "kg", " g", " ml", "L", " cm", " mm", " km", "GB", " MB/s", "°C"])
    return f"{r.uniform(0, 500):.{r.randint(0, 3)}f}" + unit


def code(r: Random) -> str:
    """Return an order number, a serial number or a part number."""
    k = r.randrange(6)
    letters = CAPITALS + DIGITS
    if k == 0:
        prefix = r.choice(["INV-", "PO-", "#", "No.", "SKU", "REF:", "ID ", "S/N "])
        return prefix + pick(r, letters if r.random() < 0.5 else DIGITS, r.randint(4, 9))
    if k == 1:
        return "-".join(pick(r, letters, r.randint(2, 5)) for _ in range(r.randint(2, 4)))
    if k == 2:
        return pick(r, "0123456789abcdef", r.randint(6, 16))
    if k == 3:
        return pick(r, letters + letters.lower(), r.randint(4, 12))
    if k == 4:
        return pick(r, "".join(map(chr, range(33, 127))), r.randint(3, 8))
    return f"{pick(r, letters, 2)}{r.randint(0, 99999)}{pick(r, letters, 1)}"


def figure(r: Random) -> str:
    k = r.random()
    if k < 0.41:
        return str(r.randint(0, 10 ** r.randint(1, 7)))
    if k < 0.76:
        return f"{r.uniform(0, 10 ** r.randint(1, 6)):,.{r.randint(0, 3)}f}"
    if k < 0.88:
        value = f"{r.uniform(0, 10 ** r.randint(1, 5)):,.{r.randint(0, 2)}f}"
        return r.choice("($-+") + value + r.choice(["", ")", "%", "x", "M", "bn", "*"])
    return f"{r.uniform(-99, 999):.{r.randint(0, 2)}f}%"


def mark_or_heading(r: Random) -> str:
    k = r.random()
    if k < 0.29:
        heads = ["Q", "FY", "FY-", "H", "Fig. ", "Table ", "Page ", "Sec. ", "§ ", "No. ", "Item ", "Chapter ", "Part "]
        return r.choice(heads) + f"{r.randint(1, 2030)}" + r.choice(["", "E", "A", ".", ":", "a"])
    if k < 0.57:
        return r.choice(["(%d)", "%d.", "[%d]", "%d)", "%d:", "• %d", "- %d", "#%d", "*%d", "%d"]) % r.randint(0, 300)
    return pick(r, CAPITALS, r.randint(1, 5)) if k < 0.86 else r.choice(TERMS["alone"])


def receipt_number(r: Random) -> str:
    values = [
        str(r.randint(10**6, 10**12)),
        code(r),
        f"{r.randint(10, 99)}-{r.randint(1000, 9999)} {r.randint(1000, 9999)}",
        f"00{r.randint(10**9, 10**10)}",
        pick(r, "ABCDEFGH" + DIGITS, r.randint(5, 14)),
        f"XXXX XXXX XXXX {r.randint(0, 9999):04d}",
    ]
    return r.choice(TERMS["numbered"]) + r.choice([":", " : ", ": ", " ", "."]) + r.choice(values)


def date_and_time(r: Random) -> str:
    between = r.choice("/-.")
    clock = f" {r.randint(0, 23):02d}:{r.randint(0, 59):02d}"
    times = ["", clock, f"{clock}:{r.randint(0, 59):02d} {r.choice(['AM', 'PM', ''])}"]
    return f"{r.randint(1, 31):02d}{between}{r.randint(1, 12):02d}{between}{r.randint(2010, 2030)}" + r.choice(times)
