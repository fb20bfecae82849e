"""What music.py needs beside its network: the tunes, without those that are nearly the same; the baseline
Kneser-Ney; and what is asked of a written tune: whether its bars are full and how much is copied, score and sound."""

import importlib.util
import re
import zipfile
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np

ORDERS = 16  # the longest context, in characters
PHRASE, SHARED = 8, 0.25  # steps of a melody; the share of such phrases in common from which two tunes are one


def read(folder):
    """Tunes as text: M, L, K, notes; each ends with an empty line."""
    (wheel,) = Path(folder).glob("music21-10*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if re.search(r"corpus/(oneills1850|ryansMammoth)/.*\.abc$", n))
        texts = [archive.read(name).decode("utf-8", "replace").replace("\r", "") for name in names]
    for text in (part for whole in texts for part in re.split(r"^X:", whole, flags=re.MULTILINE)[1:]):
        fields, notes = {}, []
        for line in re.sub(r'"[^"\n]*"|![^!\n]*!|%.*|\\$', "", text, flags=re.MULTILINE).splitlines()[1:]:
            if field := re.match(r"([A-Za-z]):\s*(.*)", line):
                if not notes:
                    fields[field[1]] = field[2].strip()
                elif field[1] in "MLK":
                    notes.append(f"{field[1]}:{field[2].strip()}")
            else:
                line = re.sub(r"(?![MLK]:)[^A-Ga-gzx0-9,'^_=/<>(){}\[\]|:.~ -]", "", line)
                line = re.sub(r" *(\|[\]|]?|:\|:?|\|:|::) *", r"\1", line)  # no blanks around bar lines
                notes += [re.sub(" +", " ", line).strip()]
        yield "\n".join([f"{k}:{fields[k]}" for k in "MLK" if k in fields] + [line for line in notes if line]) + "\n\n"


def distinct(tunes):
    """The tunes without those that have a share of their phrases, steps from note to note, with one before them."""
    kept, phrases, found = [], [], defaultdict(list)
    for tune in tunes:
        notes = re.findall(r"[A-Ga-g][,']*", re.sub(r"(?m)^[MLK]:.*$|\{[^}]*\}", "", tune))  # {}: grace notes
        pitches = ["CDEFGABcdefgab".index(n[0]) + 7 * (n.count("'") - n.count(",")) for n in notes]
        steps = np.diff(pitches)
        own = {tuple(steps[i : i + PHRASE]) for i in range(len(steps) - PHRASE + 1)}
        shared = Counter(other for phrase in own for other in found[phrase])
        if all(n <= SHARED * min(len(own), len(phrases[other])) for other, n in shared.items()):
            for phrase in own:
                found[phrase].append(len(kept))
            kept.append(tune)
            phrases.append(own)
    return kept


def earlier(groups, marks):
    """The sum of the marks at the places before each place that belong to its group."""
    order = np.argsort(groups, kind="stable")
    sums = np.cumsum(marks[order]) - marks[order]
    first = np.concatenate([[True], np.diff(groups[order]) != 0])
    result = np.empty_like(sums)
    result[order] = sums - sums[first][np.cumsum(first) - 1]
    return result


def kneser_ney(known, text, learn=False):
    """Bits a character of `text` by the 0 to ORDERS characters before it: interpolated Kneser-Ney, of what is counted
    in the text `known` and, with `learn`, in `text` before each place."""
    whole = "\n" * (ORDERS + 2) + known + text
    place, size = np.arange(-ORDERS - 2, len(known) + len(text)), len(set(known))
    counted, training = (place >= 0) & ((place < len(known)) | learn), (place >= 0) & (place < len(known))
    symbols = np.unique(list(whole), return_inverse=True)[1]
    grams = [np.zeros(len(whole), int)]  # numbers of the sequences of n characters that end at each place
    for n in range(ORDERS + 2):
        pairs = grams[-1] * (symbols.max() + 1) + np.roll(symbols, n)
        grams.append(np.unique(pairs, return_inverse=True)[1])
    lower, bits = np.full(len(whole), 1 / (size + 1)), []  # one more for characters that are not known
    for n in range(ORDERS + 1):
        context, gram = np.roll(grams[n], 1), grams[n + 1]
        first, first_longer = (counted & (earlier(of, counted) == 0) for of in grams[n + 1 : n + 3])
        kinds = earlier(context, first)

        def mixed(marks, context=context, gram=gram, kinds=kinds, lower=lower):
            """Counts of marks, less a discount that the lower order shares out."""
            often = np.bincount(gram[training], marks[training])
            once, twice = (often == 1).sum(), (often == 2).sum()
            discount, total = once / max(once + 2 * twice, 1), earlier(context, marks)
            higher = np.maximum(earlier(gram, marks) - discount, 0) + discount * kinds * lower
            return np.where(total > 0, higher / np.maximum(total, 1), lower)

        bits.append(-np.log2(mixed(counted)[place >= len(known)]).mean())
        lower = mixed(first_longer)  # counts contexts, not times
    return np.array(bits)


def full_bars(tune):
    """Of each bar, whether its notes fill the metre; around upbeats they do not."""
    fields = {"L": "1/8", "M": "C"} | dict(re.findall(r"(?m)^([ML]):(C\|?|\d+/[1-9]\d*)$", tune))
    metre, unit = (Fraction({"C": "1", "C|": "1"}.get(fields[k], fields[k])) for k in "ML")
    notes = re.sub(r"(?m)^[MLK]:.*$|\[[MLK]:[^]]*\]|\{[^}]*\}", "", tune)  # {}: grace notes
    notes = re.sub(r"\[([_^=]*[A-Ga-g][^A-Ga-g\]|]*)[^\]|]*\]", r"\1", notes)  # of a chord, the first note
    for bar in re.split(r"[|:\[\]]*\|[|:\[\]]*\d?|::", notes):
        length, triplet = Fraction(0), 0
        for three, times, slashes, parts in re.findall(r"(\(3)|[A-Ga-gxz][,']*(\d*)(/*)((?:[1-9]\d*)?)", bar):
            if three:
                triplet = 3
                continue
            value = Fraction(int(times or 1), int(parts or 2 ** len(slashes)))
            length += value * (Fraction(2, 3) if triplet > 0 else 1)
            triplet -= 1
        if length:
            yield length * unit == metre


def copied(tune, text):
    """The longest stretch of the tune's characters that is in the text."""
    longest = 0
    for start in range(len(tune)):
        while start + longest < len(tune) and tune[start : start + longest + 1] in text:
            longest += 1
    return longest


def save(name, abc):
    """ABC, and with verovio score and sound."""
    Path(f"{name}.abc").write_text(abc)
    if not importlib.util.find_spec("verovio"):
        print("without verovio there is no score and no sound")
        return
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    page = {"scale": 40, "pageHeight": 6000, "adjustPageHeight": True, "header": "none", "footer": "none"}
    toolkit.setOptions({"inputFrom": "abc", "expandNever": True, **page})  # to play repeats, 6.4.1 can crash
    if not toolkit.loadData(abc):
        raise ValueError(f"verovio cannot read the tune:\n{abc}")
    Path(f"{name}.svg").write_text(svg := toolkit.renderToSVG(1))
    toolkit.renderToMIDIFile(f"{name}.mid")
    if importlib.util.find_spec("cairosvg"):
        import cairosvg

        cairosvg.svg2png(svg.encode(), write_to=f"{name}.png", background_color="white")
