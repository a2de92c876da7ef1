"""From torch to the frozen graph: tracing, spellings, in-place operations made functional."""
