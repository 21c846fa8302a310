"""``@ag-ui/langgraph``, the client that CopilotKit uses, unmodified and pinned: to ``RUN_FINISHED``, also after an interrupt."""

from __future__ import annotations

from typing import Any

from tests.support.javascript import run_script


def test_a_conversation_with_an_interrupt(system: Any) -> None:
    got = run_script("ag_ui.mjs", system.services.gateway_url)
    assert set(got["answeredHere"]) <= {"/assistants/{id}/graph"}, "all the rest is the gateway's"
    for name, said in (("first", "I heard: one two "), ("second", "I heard: three ")):
        names = [event["type"] for event in got[name]["events"]]
        assert (names[0], names[-1]) == ("RUN_STARTED", "RUN_FINISHED")
        assert "".join(e["delta"] for e in got[name]["events"] if e["type"] == "TEXT_MESSAGE_CONTENT") == said
        assert names.count("TEXT_MESSAGE_START") == names.count("TEXT_MESSAGE_END") == 1
        assert "RUN_ERROR" not in names
    assert "transfer" in str([e for e in got["interrupted"]["events"] if e["type"] in {"CUSTOM", "RUN_FINISHED"}])
    assert got["resumed"]["events"][-1]["type"] == "RUN_FINISHED"
    assert got["resumed"]["messages"][-1]["content"] == "The decision was: yes"
