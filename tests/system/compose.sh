# Runs where `docker` reaches an engine that has the images: `make test-compose`.
exec "${BIN:-.venv/bin}/pytest" -m compose tests/system/test_compose.py
