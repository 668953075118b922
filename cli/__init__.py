"""The verbs of `canbao`: one module each, with HELP, add_arguments and run."""
