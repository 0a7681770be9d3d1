"""How good it is: bits per byte beside n-grams and compressors, macro-F1 beside two baselines, each with its interval."""
