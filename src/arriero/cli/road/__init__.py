"""The whole road of `arriero quickstart`: from text that every machine has to a model that answers, stage by stage."""
