"""A trained PRM in, a folder that vLLM serves without this project out, and the check that both score alike."""
