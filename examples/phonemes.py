"""How English words are pronounced, by the GRUs in NumPy that the package g2p-en ships (Apache-2.0 licence); and the
same class with the GRUs of fusedrnn, in ten lines: the same phonemes, in less time.

pip install --no-deps g2p-en
python examples/phonemes.py
"""

import random
import statistics
import sys
import time
from unittest.mock import MagicMock

import fusedrnn

# Stand-ins for what looks words up and tags sentences, before and beside the model: nltk would download corpora.
sys.modules |= dict.fromkeys(("nltk", "nltk.corpus", "nltk.tokenize", "inflect"), MagicMock())

from g2p_en import G2p  # noqa: E402

ROUNDS, COUNT = 5, int(sys.argv[1]) if len(sys.argv) > 1 else 500
STARTS = ["act", "brick", "cloud", "drift", "flor", "grim", "hazel", "ink", "jolt", "lumin", "nimb", "orch", "quill"]
MIDDLES = ["a", "el", "in", "or", "ul"]
ENDS = ["able", "ation", "esque", "ful", "ingly", "ism", "ist", "ization", "less", "ness", "ology", "ward"]
WORDS = random.Random(0).sample([start + mid + end for start in STARTS for mid in MIDDLES for end in ENDS], COUNT)


class Fused(G2p):
    def load_variables(self):
        super().load_variables()
        self.encoder = fusedrnn.GRUWeights(self.enc_w_ih, self.enc_w_hh, self.enc_b_ih, self.enc_b_hh)
        self.decoder = fusedrnn.GRUWeights(self.dec_w_ih, self.dec_w_hh, self.dec_b_ih, self.dec_b_hh)

    def gru(self, x, steps, *arrays, h0):
        return fusedrnn.gru(x.swapaxes(0, 1), self.encoder, h0).y.swapaxes(0, 1)

    def grucell(self, x, h, *arrays):
        return fusedrnn.gru_cell(x, self.decoder, h)


def main():
    fusedrnn.set_num_threads(1)  # as NumPy: one row of so small a model is a matter of microseconds
    systems = {"NumPy": G2p(), "fusedrnn": Fused()}
    seconds, found = {name: [] for name in systems}, {}
    for _ in range(ROUNDS):
        for name, system in systems.items():
            start = time.perf_counter()
            found[name] = [" ".join(system.predict(word)) for word in WORDS]
            seconds[name].append(time.perf_counter() - start)
    for word, phonemes in list(zip(WORDS, found["fusedrnn"], strict=True))[:5]:
        print(f"{word}: {phonemes}")
    same = sum(a == b for a, b in zip(*found.values(), strict=True))
    print(f"the same phonemes of {same} of {COUNT} words")
    for name, of_rounds in seconds.items():
        print(f"{name}: {1e6 * statistics.median(of_rounds) / COUNT:.0f} microseconds a word, median of {ROUNDS}")


if __name__ == "__main__":
    main()
