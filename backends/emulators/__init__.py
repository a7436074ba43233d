"""Local stand-ins for what the gateway calls: RunPod, Modal, AWS Lambda, and a KServe v2 server.

    python -m backends.emulators --kind runpod|modal|lambda|kserve --port N --config JSON

Real servers with real handlers that behave as serverless does: they scale from zero, are sometimes cold,
say 429 when they are full, and keep a bill as the provider would. They cost nothing and need no account.
"""
