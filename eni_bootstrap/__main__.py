from eni_bootstrap.cli import run

run()
