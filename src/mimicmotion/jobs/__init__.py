"""The jobs behind the command line: generate, plan, poses, doctor."""
