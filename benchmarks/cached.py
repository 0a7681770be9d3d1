"""2,000 greedy texts read in chunks, with known beginnings, padded and streamed, in fp32 and bf16, against whole forwards.

Decoders of seven kinds and encoders with a decoder of three. Where they differ, the two best scores must lie closer than they round;
how often that was is `noted`.
"""

from campaign import campaign

from tests.generation.trials import Ways

if __name__ == "__main__":
    claim = "cached, chunked, prefix-reused, padded and streamed generation write what whole forwards write, up to the first near-tie"
    campaign("cached", claim, Ways, 2000, __doc__)
