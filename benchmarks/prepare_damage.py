"""Shards with flipped bits, edited, swapped, cut, or with ids that no token has: each must be refused by name."""

from campaign import campaign

from tests.data.trials import Mutations

if __name__ == "__main__":
    campaign("prepare_damage", "500 mutations of the shards of a corpus are all refused, naming the shard", Mutations, 500, __doc__)
