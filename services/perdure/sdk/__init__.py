"""What agent authors may import beside the saver: waits and guarded effects. Not built yet; LangGraph itself is the API today."""
