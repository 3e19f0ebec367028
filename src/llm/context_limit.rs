//! Errors about a request that is longer than the model's context window: how large the window is, and how much was requested.
//!
//! Every server words this differently, so the numbers are found by the words next to them.

use super::wire::WireError;

/// What an error says about the context window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContextLimit {
    /// The context window, in tokens.
    pub(super) window: Option<u64>,
    /// The tokens that the request needs, the longest reply included if the server counts it.
    pub(super) needed: Option<u64>,
}

/// Words next to the size of the window.
const WINDOW_PHRASES: [&str; 8] = [
    "context length",
    "context window",
    "context size",
    "context limit",
    "maximum number of tokens allowed",
    "maximum number of tokens",
    "must be <=",
    "n_ctx",
];

/// Words that show that an error is about the window.
const CONTEXT_PHRASES: [&str; 11] = [
    "context length",
    "context_length",
    "context window",
    "context_window",
    "context size",
    "context_size",
    "context limit",
    "maximum number of tokens allowed",
    "prompt is too long",
    "input is too long",
    "max_new_tokens",
];

/// Words before the number of tokens that the request needs.
const NEEDED_PHRASES: [&str; 5] = [
    "requested about",
    "requested a total of",
    "requested",
    "resulted in",
    "prompt contains",
];

/// The most characters between a phrase and its number.
const MAX_DISTANCE: usize = 12;

/// What an error says about the context window; `None` if it is about something else.
pub(super) fn context_limit(error: &WireError) -> Option<ContextLimit> {
    let text = error.describe().to_lowercase();
    if !CONTEXT_PHRASES.iter().any(|phrase| text.contains(phrase)) {
        return None;
    }
    let mut limit = ContextLimit {
        window: error.window,
        needed: error.needed,
    };
    if limit.window.is_some() {
        return Some(limit);
    }
    if let Some(compared) = compared_numbers(&text) {
        return Some(compared);
    }
    limit.window = WINDOW_PHRASES
        .iter()
        .find_map(|phrase| number_near(&text, phrase));
    limit.needed = needed_tokens(&text, limit.window);
    Some(limit)
}

fn needed_tokens(text: &str, window: Option<u64>) -> Option<u64> {
    if let Some((_, given)) = text.split_once("given:") {
        return Some(numbers(given).iter().map(|(_, number)| number).sum());
    }
    let after = NEEDED_PHRASES.iter().find_map(|phrase| {
        let (_, rest) = text.split_once(phrase)?;
        first_number(rest)
    });
    let window = window?;
    after.or_else(|| {
        let all = numbers(text).into_iter().map(|(_, number)| number);
        all.filter(|number| *number > window).max()
    })
}

/// Both numbers of a comparison: `190000 + 16384 > 200000`, `210000 tokens > 200000`, `16384 > 8192 - 7000`.
fn compared_numbers(text: &str) -> Option<ContextLimit> {
    let (left, right) = text.split_once('>')?;
    let start = left.rfind(['(', ':', ',', ';']).map_or(0, |at| at + 1);
    let left = numbers(&left[start..]);
    let right_numbers = numbers(right);
    let (at, window) = *right_numbers.first()?;
    if left.is_empty() || at > MAX_DISTANCE {
        return None;
    }
    let after =
        right[at..].trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ',');
    let used = if after.trim_start().starts_with('-') {
        right_numbers.get(1).map_or(0, |(_, number)| *number)
    } else {
        0
    };
    let needed = left
        .iter()
        .fold(used, |sum, (_, number)| sum.saturating_add(*number));
    Some(ContextLimit {
        window: Some(window),
        needed: Some(needed),
    })
}

/// The number right after a phrase, else the one right before it.
fn number_near(text: &str, phrase: &str) -> Option<u64> {
    text.match_indices(phrase).find_map(|(at, _)| {
        first_number(&text[at + phrase.len()..]).or_else(|| {
            let before = &text[..at];
            let (start, number) = *numbers(before).last()?;
            let digits = before[start..]
                .trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ',');
            (digits.chars().count() <= MAX_DISTANCE).then_some(number)
        })
    })
}

/// The number at the start of a text, after a few other characters.
fn first_number(text: &str) -> Option<u64> {
    let (at, number) = *numbers(text).first()?;
    (text[..at].chars().count() <= MAX_DISTANCE).then_some(number)
}

/// All whole numbers with their places, `8,192` included.
pub(super) fn numbers(text: &str) -> Vec<(usize, u64)> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        let is_group = |at: usize| {
            bytes[at] == b','
                && bytes.len() >= at + 4
                && bytes[at + 1..at + 4].iter().all(u8::is_ascii_digit)
        };
        while at < bytes.len() && (bytes[at].is_ascii_digit() || is_group(at)) {
            at += 1;
        }
        if let Ok(number) = text[start..at].replace(',', "").parse() {
            found.push((start, number));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn window_and_need_are_found_in_the_words_of_all_servers() {
        for (message, window, needed) in [
            (
                "This model's maximum context length is 8192 tokens. However, you requested 24000 tokens (8000 in the messages, 16000 in the completion).",
                Some(8192),
                Some(24_000),
            ),
            (
                "This model's maximum context length is 128,000 tokens. However, your messages resulted in 130,500 tokens.",
                Some(128_000),
                Some(130_500),
            ),
            (
                "'max_tokens' or 'max_completion_tokens' is too large: 16384. This model's maximum context length is 8192 tokens and your request has 7000 input tokens (16384 > 8192 - 7000).",
                Some(8192),
                Some(23_384),
            ),
            (
                "prompt is too long: 210000 tokens > 200000 maximum",
                Some(200_000),
                Some(210_000),
            ),
            (
                "input length and `max_tokens` exceed context limit: 190000 + 16384 > 200000, decrease input length",
                Some(200_000),
                Some(206_384),
            ),
            (
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
                Some(1_048_576),
                Some(1_200_000),
            ),
            (
                "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
                Some(32_768),
                Some(40_000),
            ),
            (
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 16384 `max_new_tokens`",
                Some(4096),
                Some(21_384),
            ),
            (
                "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: 1000 tokens from the input messages and 4000 tokens for the completion.",
                Some(4096),
                Some(5000),
            ),
            (
                "The input (9000 tokens) is longer than the model's context length (4096 tokens).",
                Some(4096),
                Some(9000),
            ),
            (
                "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough.",
                Some(4096),
                Some(9000),
            ),
            (
                "Your input exceeds the context window of this model.",
                None,
                None,
            ),
        ] {
            let limit = context_limit(&WireError::from_message(message));
            assert_eq!(limit, Some(ContextLimit { window, needed }), "{message}");
        }
        let llama = json!({"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096,
            "message": "the request exceeds the available context size. try increasing the context size or enable context shift"}});
        let expected = ContextLimit {
            window: Some(4096),
            needed: Some(9000),
        };
        assert_eq!(context_limit(&WireError::from_json(&llama)), Some(expected));
        let other = WireError::from_message("Rate limit of 10000 tokens per minute");
        assert_eq!(context_limit(&other), None);
    }
}
