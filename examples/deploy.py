"""A tagger of PyTorch, saved as a file, that runs without PyTorch: NumPy and fusedrnn read the file and tag a sentence.
Beside it PyTorch does the same. Each is a process of its own, of which the program prints the time from its start to
its tags, and the most memory that it has had. (The weights are first values. Trained ones would cost the same.)

pip install '.[torch,files]'    # PyTorch for the comparison, and to write the file
python examples/deploy.py
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY, EMBEDDING, HIDDEN, TAGS, LENGTH = 20000, 128, 256, 17, 30
TOKENS = [37 * i * i % VOCABULARY for i in range(LENGTH)]  # a sentence


def model():
    """What was trained, in PyTorch."""
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
            self.lstm = nn.LSTM(EMBEDDING, HIDDEN, num_layers=2, bidirectional=True)
            self.linear = nn.Linear(2 * HIDDEN, TAGS)

        def forward(self, tokens):
            return self.linear(self.lstm(self.embedding(tokens))[0])

    torch.manual_seed(0)
    return Tagger().eval()


def save(path):
    from safetensors.torch import save_file

    save_file(model().state_dict(), path)


def by_pytorch(path):
    import torch
    from safetensors.torch import load_file

    tagger = model()
    tagger.load_state_dict(load_file(path))
    with torch.inference_mode():
        return tagger(torch.tensor(TOKENS)).numpy()


def by_fusedrnn(path):
    from safetensors.numpy import load_file

    from fusedrnn import convert

    arrays = load_file(path)
    lstm = convert.from_torch(arrays, "lstm")
    y = lstm(arrays["embedding.weight"][TOKENS]).y
    assert "torch" not in sys.modules
    return y @ arrays["linear.weight"].T + arrays["linear.bias"]


def child(task, path):
    """In a process of its own: prints what it finds, and the most memory that the process has had."""
    found = globals()[task](path)
    if found is not None:
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KB
        print(json.dumps([found.tolist(), megabytes]), flush=True)


def run(task, path):
    """Seconds until a process has said what it found, its MB, and that."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, __file__, task, path], stdout=subprocess.PIPE) as process:
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    assert process.returncode == 0
    return seconds, *json.loads(line)[::-1]


def main(rounds):  # imports nothing large: a process has at first the memory of the one that started it
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "tagger.safetensors"))
        subprocess.run([sys.executable, __file__, "save", path], check=True)
        print(f"a file of {Path(path).stat().st_size / 1e6:.1f} MB; medians of {rounds} processes each, in turns")
        tasks = {"PyTorch": "by_pytorch", "fusedrnn": "by_fusedrnn"}
        runs = {name: [] for name in tasks}
        for _ in range(rounds):
            for name, task in tasks.items():
                runs[name].append(run(task, path))
    for name, of_name in runs.items():
        seconds, megabytes = (statistics.median(column) for column in list(zip(*of_name, strict=True))[:2])
        print(f"{name}: {seconds:.2f} s from the start of the process to its tags, {megabytes:.0f} MB at most")
    theirs, ours = (of_name[0][2] for of_name in runs.values())
    difference = max(abs(a - b) for row in zip(theirs, ours, strict=True) for a, b in zip(*row, strict=True))
    tags = [[row.index(max(row)) for row in scores] for scores in (theirs, ours)]
    assert difference < 1e-4, difference
    assert tags[0] == tags[1]
    print(f"the same tags; scores differ by at most {difference:.1e}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        child(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
