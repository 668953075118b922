"""`python -m bench.peers.tutorial FILE`: one service."""

import importlib

import uvloop

from bench.peers.tutorial.app import place, run

uvloop.run(run(importlib.import_module(f"bench.peers.tutorial.{place.service}").router))
