"""Runs stopped at random moments and continued: the bits must be those of a run that nothing stopped."""

from campaign import campaign

from tests.train.trials import Resume

if __name__ == "__main__":
    claim = (
        "60 runs of five objectives in fp32 and bf16, stopped once or five times by SIGINT, SIGTERM or kill -9, end "
        "without a differing bit in weights and optimiser"
    )
    campaign("resume", claim, Resume, 60, __doc__)
