"""The field's protocols on full-information tables: RouterBench, RouteLLM, RouterArena, and headroom."""
