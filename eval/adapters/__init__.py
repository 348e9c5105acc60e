"""Others' harnesses run on us unchanged: lmms-eval, VLMEvalKit, MTEB, clip_benchmark. None of them is a dependency."""
