//! The `llm` section of a config: what is refused, and how it is resolved.

use kforge::base::yaml;
use kforge::llm::{LlmSettings, ModelList};

fn read(text: &str) -> Result<LlmSettings, String> {
    let settings: LlmSettings =
        yaml::read(text, "run.yaml").map_err(|failure| failure.to_string())?;
    settings.check().map_err(|failure| failure.to_string())?;
    Ok(settings)
}

/// Asserts that each config is refused with a message that contains the text.
fn assert_refused(cases: &[(&str, &str)]) {
    for (text, message) in cases {
        let error = read(text)
            .err()
            .unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(error.contains(message), "{text}\n{error}");
    }
}

#[test]
fn unknown_and_missing_model_settings_are_refused() {
    assert_refused(&[
        ("modles: auto", "did you mean `models`?"),
        ("models: gpt", "expected `auto` or a list of models"),
        (
            "models: [gpt]",
            "unknown provider in `gpt`: write PROVIDER/MODEL",
        ),
        ("models: [openai]", "`llm.models.openai` has no `model`"),
        ("models: [a/b/c]", "unknown provider in `a/b/c`"),
        (
            "models: [{provider: openai, model: m, temprature: 1}]",
            "did you mean `temperature`?",
        ),
        (
            "models: [{provider: opnai, model: m}]",
            "did you mean `openai`?",
        ),
        ("models: [{model: m}]", "`provider` is missing"),
        ("models: [mailbox, mailbox]", "two models named `mailbox`"),
        ("models: [{provider: command}]", "has no `command`"),
        ("models: [{provider: replay}]", "has no `from`"),
    ]);
}

#[test]
fn settings_without_effect_are_refused() {
    assert_refused(&[
        (
            "models: [{provider: mailbox, temperature: 1, stream: true}]",
            "`temperature` and `stream` have no effect",
        ),
        (
            "models: [mailbox]\ntemperature: 1",
            "`temperature` has no effect",
        ),
        (
            "models: [{provider: openai, model: m, version: x}]",
            "`version` has no effect",
        ),
        (
            "models: [{provider: openai, model: m, cache: true}]",
            "`cache` has no effect",
        ),
        (
            "models: [{provider: command, command: [x], price: {input: 1, output: 1}}]",
            "`price` has no effect",
        ),
        (
            "models: [{provider: anthropic, model: m, seed: 1}]",
            "provider `anthropic` has no such setting",
        ),
        (
            "models: [{provider: responses, model: m, stop: [x]}]",
            "name the server's field: `fields: {stop: …}`",
        ),
    ]);
}

#[test]
fn fields_that_kforge_sets_are_refused() {
    assert_refused(&[
        (
            "models: [{provider: openai, model: m, fields: {temprature: x}}]",
            "did you mean `temperature`?",
        ),
        (
            "models: [{provider: openai, model: m, fields: {effort: messages.x}}]",
            "`llm.models.openai/m.fields.effort` cannot be `messages.x`",
        ),
        (
            "models: [{provider: openai, model: m, extra: {n: 2}}]",
            "`llm.models.openai/m.extra.n` is set by kforge",
        ),
        (
            "models: [{provider: openai, model: m, fields: {max_output_tokens: options.cap}, extra: {options: {cap: 9}}}]",
            "replaces the request's output cap",
        ),
    ]);
}

#[test]
fn values_out_of_range_and_secrets_in_files_are_refused() {
    assert_refused(&[
        (
            "models: [{provider: openai, model: m, temperature: 3}]",
            "`llm.models.openai/m.temperature` cannot be `3`",
        ),
        (
            "models: [{provider: openai, model: m, weight: 0}]",
            "a weight is above 0",
        ),
        (
            "models: [{provider: openai, model: m, max_output_tokens: 0}]",
            "cannot be `0`",
        ),
        (
            "models: [{provider: anthropic, model: m, thinking_tokens: 20000}]",
            "it must be less than `max_output_tokens`",
        ),
        (
            "models: [{provider: openai, model: m, base_url: localhost}]",
            "`localhost` is not a valid URL",
        ),
        (
            "models: [{provider: openai, model: m, base_url: 'http://a:b@c/v1'}]",
            "would be written to files",
        ),
        (
            "models: [{provider: openai, model: m, base_url: 'http://c/v1?key=x'}]",
            "would be written to files",
        ),
        (
            "models: [{provider: openai, model: m, headers: {X-Api-Key: sk-1}}]",
            "would write a key to a file",
        ),
        (
            "models: [{provider: openai, model: m, headers: {Authorization: Bearer x}}]",
            "would write a key to a file",
        ),
        (
            "models: [{provider: openai, model: m, price: {input: -1, output: 1}}]",
            "`llm.models.openai/m.price.input` cannot be `-1`",
        ),
        (
            "models: [{provider: openai, model: m, price: {input: 1}}]",
            "`output` is missing",
        ),
        ("concurrency: 0", "`llm.concurrency` cannot be `0`"),
        ("idle_seconds: .nan", "`llm.idle_seconds` cannot be `NaN`"),
        ("context_share: 1.5", "`llm.context_share` cannot be `1.5`"),
        ("top_p: 7", "`llm.top_p` cannot be `7`"),
    ]);
}

#[test]
fn resolved_settings_round_trip() {
    let text = "models: [ollama/qwen, {provider: openai, model: m, name: n, weight: 2, base_url: 'http://127.0.0.1:1/v1', temperature: 0.5,
        headers: {X-Api-Key: $SOME_KEY}, extra: {a: {b: [1]}}, fields: {effort: x.y}, price: {input: 0.15, output: 0.6}}, mailbox]\nconcurrency: 8\n";
    let (decided, _) = read(text).unwrap().resolved().unwrap();
    let record = serde_json::to_string(&decided).unwrap();
    assert_eq!(
        serde_json::from_str::<LlmSettings>(&record).unwrap(),
        decided
    );
    assert_eq!(
        decided.resolved().unwrap().0,
        decided,
        "resolved settings stay as they are"
    );
    let ModelList::Listed(models) = &decided.models else {
        panic!("not resolved")
    };
    assert_eq!(
        models[0].base_url.as_deref(),
        Some("http://localhost:11434/v1")
    );
    assert_eq!(
        models[1].key_env.as_deref(),
        Some(""),
        "a server that the config names gets no default key"
    );
    assert_eq!(models[1].weight, 2.0);
    let yaml = serde_yaml::to_string(&decided).unwrap();
    assert_eq!(
        yaml::read::<LlmSettings>(&yaml, "run.yaml").unwrap(),
        decided
    );
}

#[test]
fn dollar_budget_requires_a_price_for_every_model() {
    let check = |models: &str, usd, tokens| {
        let settings = read(&format!("models: [{models}]")).unwrap();
        settings
            .check_budget(usd, tokens)
            .map_err(|failure| failure.to_string())
    };
    let priced = "{provider: openai, model: m, price: {input: 1, output: 2}}";
    assert_eq!(check(priced, Some(1.0), None), Ok(()));
    assert_eq!(check("mailbox, openai/m", None, Some(1000)), Ok(()));
    assert!(
        check("openai/m", Some(1.0), None)
            .unwrap_err()
            .contains("`openai/m` has no price")
    );
    assert!(
        check(&format!("{priced}, mailbox"), Some(1.0), None)
            .unwrap_err()
            .contains("the cost of `mailbox` is not known")
    );
}
