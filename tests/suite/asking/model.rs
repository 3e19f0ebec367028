//! The scripted model: it replies to every prompt with a new block size for the kernel of the prompt, which is always correct.

use std::time::Duration;

use serde_json::{Value, json};

use crate::llm::server::{SeenRequest, ServerAction};

/// The input and output tokens that the server reports for a request and its reply.
pub(crate) fn usage(seen: &SeenRequest, text: &str) -> (u64, u64) {
    (seen.body.len() as u64 / 4, text.len() as u64 / 4 + 1)
}

/// The prompt as one text, as `prompt.md` stores it.
pub(crate) fn document(seen: &SeenRequest) -> String {
    let body = seen.json();
    let text = |index: usize| {
        let content = &body["messages"][index]["content"];
        content.as_str().expect("a message is a text").to_owned()
    };
    format!("{}\n\n---\n\n{}", text(0).trim_end(), text(1))
}

/// A complete reply, streamed if the request asks for it.
pub(crate) fn complete_reply(seen: &SeenRequest, text: &str) -> ServerAction {
    reply_with_finish_reason(seen, text, "stop")
}

/// A reply with this finish reason.
pub(crate) fn reply_with_finish_reason(
    seen: &SeenRequest,
    text: &str,
    reason: &str,
) -> ServerAction {
    match seen.json()["stream"].as_bool() {
        Some(true) => ServerAction::events(&stream_events(seen, text, reason)),
        _ => ServerAction::json(200, whole_reply(seen, text, reason)),
    }
}

/// The same action after a pause.
pub(crate) fn delayed(act: ServerAction, pause: Duration) -> ServerAction {
    match act {
        ServerAction::Events(mut events, ends) => {
            if let Some((first, _)) = events.first_mut() {
                *first = pause;
            }
            ServerAction::Events(events, ends)
        }
        act => {
            std::thread::sleep(pause);
            act
        }
    }
}

fn usage_json(seen: &SeenRequest, text: &str) -> Value {
    let (input, output) = usage(seen, text);
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

pub(crate) fn whole_reply(seen: &SeenRequest, text: &str, reason: &str) -> Value {
    json!({
        "id": "1", "object": "chat.completion", "model": "local",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": usage_json(seen, text),
    })
}

/// The events of a stream: the text in pieces of 120 characters, the finish reason, the usage, the end.
pub(crate) fn stream_events(seen: &SeenRequest, text: &str, reason: &str) -> Vec<String> {
    let event = |value: Value| format!("data: {value}\n\n");
    let letters: Vec<char> = text.chars().collect();
    let mut events: Vec<String> = letters
        .chunks(120)
        .map(|piece| {
            let piece: String = piece.iter().collect();
            event(json!({"model": "local", "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": null}]}))
        })
        .collect();
    events.push(event(
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
    ));
    events.push(event(
        json!({"choices": [], "usage": usage_json(seen, text)}),
    ));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// A reply to the prompt: another block size for its kernel. A different `number` gives a different size.
pub(crate) fn reply_to(document: &str, number: usize) -> String {
    let parent = parent_source(document);
    let edits = block_size_edits(&parent, number);
    let body = match asks_for_edits(document) {
        true => edits
            .iter()
            .map(|(old, new)| edit_block(old, new))
            .collect(),
        false => {
            let changed = edits.iter().fold(parent, |source, (old, new)| {
                source.replacen(old.as_str(), new, 1)
            });
            format!("```cuda\n{changed}```\n")
        }
    };
    format!("{}\n{body}", trace_block(&format!("block size {number}")))
}

/// The trace at the start of every reply.
pub(crate) fn trace_block(change: &str) -> String {
    let trace = json!({
        "bottleneck": "occupancy", "hypothesis": "another block size fits the rows better", "change": change,
        "expected_percent": -5, "risk": "none",
    });
    format!("```json\n{trace}\n```\n")
}

pub(crate) fn edit_block(old: &str, new: &str) -> String {
    format!("<edit>\n<old_str>\n{old}\n</old_str>\n<new_str>\n{new}\n</new_str>\n</edit>\n")
}

pub(crate) fn asks_for_edits(document: &str) -> bool {
    document.contains("\n# This step: edit ")
}

/// The source of the first kernel to work on. A prompt without one gets a starting kernel.
pub(crate) fn parent_source(document: &str) -> String {
    let Some(heading) = (document.rfind("\n# The kernel to work on"))
        .or_else(|| document.rfind("\n# The kernels to work on"))
    else {
        return include_str!("../../../kernels/softmax/naive.cu").to_owned();
    };
    let rest = &document[heading..];
    let (_, code) = rest.split_once("```cuda\n").expect("its code is fenced");
    let (code, _) = code.split_once("\n```").expect("the fence is closed");
    format!("{code}\n")
}

/// Lines of the kernel, and their replacements: another block size, wherever its launch says it. The kernels to edit depend on the order
/// of results, so any child of a starting kernel may come.
pub(crate) fn block_size_edits(parent: &str, number: usize) -> Vec<(String, String)> {
    // Odd: no list of values has it yet.
    let odd = 19 + 4 * (number % 120);
    let mut lines = parent.lines();
    if let Some(line) = lines.clone().find(|line| line.contains("BLOCK: [")) {
        return vec![(line.to_owned(), format!("  BLOCK: [{odd}, 64, 16]"))];
    }
    if let Some(line) = lines.clone().find(|line| line.contains("THREADS: [")) {
        let threads = 32 * (1 + number % 8);
        let others = [32, 64, 128].map(|value| value + if value == threads { 128 } else { 0 });
        let new = format!(
            "  THREADS: [{threads}, {}, {}, {}]",
            others[0], others[1], others[2]
        );
        return vec![(line.to_owned(), new)];
    }
    let block = lines.clone().find_map(|line| {
        let size = line.strip_prefix("    block: ")?;
        size.parse::<usize>().ok().map(|size| (line, size))
    });
    // The grid is `ceil_div(rows, SIZE)`, or `ceil_div(16 * rows, SIZE)` after an operator gave each row several threads. Those keep
    // whole warps.
    let grid = block.and_then(|(_, size)| {
        let end = format!(", {size})");
        let line = lines.find(|line| line.contains("grid: ceil_div(") && line.contains(&end))?;
        let size = if line.contains("* rows") {
            32 * (1 + number % 31)
        } else {
            odd
        };
        Some((line, line.replace(&end, &format!(", {size})")), size))
    });
    match (grid, block) {
        (Some((grid, new_grid, size)), Some((block, _))) => vec![
            (grid.to_owned(), new_grid),
            (block.to_owned(), format!("    block: {size}")),
        ],
        // An operator made the grid independent of the block size.
        (None, Some((block, _))) => vec![(block.to_owned(), format!("    block: {odd}"))],
        // An operator gave the launch another form. Any change is a change.
        _ => {
            let mut lines = parent.lines();
            let entry = lines.find(|line| line.contains("__global__"));
            let entry = entry.unwrap_or_else(|| panic!("not a kernel:\n{parent}"));
            let new = format!("__device__ const int number = {number};\n{entry}");
            vec![(entry.to_owned(), new)]
        }
    }
}
