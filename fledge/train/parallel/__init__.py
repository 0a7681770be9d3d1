"""Many processes as one run: nothing else of fledge knows that there are others."""
