"""nanoGPT's own preparation of OpenWebText but for where the documents come from and that they may be few; run by the peers' own Python."""

import json
import sys
from pathlib import Path

task = json.loads(sys.argv[1])
script = (Path(task["nanogpt"]) / "data" / "openwebtext" / "prepare.py").read_text(encoding="utf-8")
ours = f"load_dataset('text', data_files={task['text'] + '/*.txt'!r}, sample_by='document', cache_dir={task['out']!r}, "
files = (f"{task['gpt2']}/vocab.bpe", f"{task['gpt2']}/encoder.json")
encoding = f"""
from tiktoken.load import data_gym_to_mergeable_bpe_ranks as _ranks
from tiktoken_ext.openai_public import r50k_pat_str as _pattern
enc = tiktoken.Encoding("gpt2", pat_str=_pattern, mergeable_ranks=_ranks(*{files!r}), special_tokens={{"<|endoftext|>": 50256}})
"""
for was, becomes in (
    ("total_batches = 1024", "total_batches = min(1024, len(dset))"),  # it has no way for fewer documents
    ("num_proc = 8", f"num_proc = {task['processes']}"),
    ('load_dataset("openwebtext", ', ours),
    ('enc = tiktoken.get_encoding("gpt2")', encoding),
):
    assert was in script
    script = script.replace(was, becomes)
place = Path(task["out"]) / "prepare.py"
place.write_text(script, encoding="utf-8")
exec(compile(script, str(place), "exec"), {"__name__": "__main__", "__file__": str(place)})
