"""2,000 mixes of requests that come and go beside each other: each is answered, bit for bit, as in an engine of its own.

Equal shares of ten architectures, in fp32, bf16 and int8, with chunks of several sizes and known beginnings; what the guarantee costs is in
co_tenant_cost.py.
"""

from campaign import campaign

from tests.generation.trials import CoTenants

if __name__ == "__main__":
    claim = "tokens, log-probabilities and alternatives of a request have the same bits whatever else is in the batch, in 2,000 mixes"
    campaign("co_tenants", claim, CoTenants, 2000, __doc__)
