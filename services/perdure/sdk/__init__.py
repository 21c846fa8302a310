"""What agent authors may import beside the saver. Reserved for waits and guarded effects; LangGraph itself is the API today."""
