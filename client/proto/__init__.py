"""The contract between courier and agent: `agent.proto`, what protoc makes of it (`make proto`), and conversions."""
