"""TensorZero's embedded gateway: prints where it listens, and serves until it is ended.

Run by a Python that has its wheel: ``python tensorzero_gateway.py config.toml``.
"""

import sys
import threading

import tensorzero

gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1],
    clickhouse_url=None,
    postgres_url=None,
    valkey_url=None,
    async_setup=False,
)
print(gateway.base_url, flush=True)
threading.Event().wait()
