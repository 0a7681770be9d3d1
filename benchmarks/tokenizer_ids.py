"""100,000 strings of ten kinds by GPT-2's, BERT's, T5's and cl100k's own files: the ids of fledge and of their makers' code."""

from campaign import campaign

from tests.text.trials import Ids

if __name__ == "__main__":
    claim = (
        "the ids of GPT-2 (tiktoken), BERT (transformers), T5 (sentencepiece) and cl100k (tiktoken) on 100,000 random and real strings are "
        "equal, a hundred strings a trial; where sentencepiece cuts otherwise, it is shown to be because it adds scores in 32 bits"
    )
    campaign("tokenizer_ids", claim, Ids, 1000, __doc__)
