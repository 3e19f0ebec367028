//! All models of a run behind one question: how many at once, patience, and what it costs.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::circuit_breaker::{Admission, CircuitBreaker};
use super::command::CommandProvider;
use super::http::{HttpProvider, Timeouts};
use super::mailbox::MailboxProvider;
use super::models::{ModelList, ModelSettings, ProviderName};
use super::prices::{self, TokenRates};
use super::replay::ReplayProvider;
use super::secret::Secrets;
use super::settings::LlmSettings;
use super::wire::Protocol;
use super::{Attempt, Provider, Reply, Request, RequestOrigin, RequestOutcome, TurnedAway, retry};
use crate::base::Failure;
use crate::event::{Cost, ReplyOutcome};

/// Tokens that a server adds to a prompt at most, for roles and the like.
const MAX_OVERHEAD_TOKENS: u64 = 256;

/// Models to ask. Shared by all that ask.
pub struct Client {
    models: Vec<ServedModel>,
    slots: Semaphore,
    retries: u32,
    patience: Duration,
    waiting: Mutex<BTreeMap<u64, WaitingRequest>>,
    next_wait: AtomicU64,
}

/// A model and who answers for it.
struct ServedModel {
    facts: ModelFacts,
    rates: Option<TokenRates>,
    provider: Arc<dyn Provider>,
    breaker: Arc<CircuitBreaker>,
}

/// What is to be known of a model without asking it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// As the config, the briefs and the journal call it.
    pub name: String,
    pub provider: ProviderName,
    pub weight: f64,
    /// The window, in tokens.
    pub context_tokens: u64,
    /// The cap of a reply, unless a question has another.
    pub max_output_tokens: u64,
    /// Whether its tokens have a price.
    pub is_priced: bool,
}

/// A question that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingRequest {
    pub model: String,
    pub task: String,
    pub step: u64,
    /// Until when; `None` where it depends on a person.
    pub until: Option<std::time::Instant>,
    pub why: String,
}

impl Client {
    /// Reads the keys and makes ready; sends nothing. The settings are those of [`Settings::decided`].
    pub fn open(settings: &LlmSettings) -> Result<Self, Failure> {
        let ModelList::Listed(models) = &settings.models else {
            return Err(Failure::usage("which models to ask is not decided"));
        };
        let times = Timeouts {
            total: Duration::from_secs_f64(settings.timeout_seconds),
            idle: Duration::from_secs_f64(settings.idle_seconds),
        };
        let secrets = Secrets::from_models(models);
        let mut breakers: HashMap<String, Arc<CircuitBreaker>> = HashMap::new();
        let mut served = Vec::new();
        for model in models {
            let provider: Arc<dyn Provider> = match Protocol::for_provider(model.provider) {
                Some(wire) => Arc::new(HttpProvider::open(model, wire, times, &secrets)?),
                None => match model.provider {
                    ProviderName::Command => Arc::new(CommandProvider::open(model, times.total)?),
                    ProviderName::Replay => Arc::new(ReplayProvider::open(model)?),
                    _ => Arc::new(MailboxProvider::new(settings.wait)),
                },
            };
            let endpoint = match model.provider.endpoint() {
                Some(_) => format!("{:?} {:?}", model.base_url, model.key_env),
                None => model.name.clone(),
            };
            served.push(ServedModel {
                facts: model_facts(model),
                rates: model
                    .price
                    .map(|price| price.rates(model.provider == ProviderName::Anthropic)),
                provider,
                breaker: Arc::clone(breakers.entry(endpoint).or_default()),
            });
        }
        Ok(Self {
            models: served,
            slots: Semaphore::new(settings.concurrency),
            retries: settings.retries,
            patience: Duration::from_secs_f64(settings.patience_seconds),
            waiting: Mutex::default(),
            next_wait: AtomicU64::new(0),
        })
    }

    /// A client whose models are answered for by others: for tests, and for programs that bring their own.
    pub(crate) fn with_providers(
        settings: &LlmSettings,
        models: Vec<(ModelSettings, Arc<dyn Provider>)>,
    ) -> Self {
        let serve_model = |(model, provider): (ModelSettings, Arc<dyn Provider>)| ServedModel {
            facts: model_facts(&model),
            rates: model.price.map(|price| price.rates(false)),
            provider,
            breaker: Arc::default(),
        };
        Self {
            models: models.into_iter().map(serve_model).collect(),
            slots: Semaphore::new(settings.concurrency),
            retries: settings.retries,
            patience: Duration::from_secs_f64(settings.patience_seconds),
            waiting: Mutex::default(),
            next_wait: AtomicU64::new(0),
        }
    }

    /// The models, in the order of the config.
    pub fn models(&self) -> impl Iterator<Item = &ModelFacts> {
        self.models.iter().map(|served| &served.facts)
    }

    /// What is known of one of them.
    pub(crate) fn model(&self, name: &str) -> Option<&ModelFacts> {
        self.served(name).map(|served| &served.facts)
    }

    fn served(&self, name: &str) -> Option<&ServedModel> {
        self.models.iter().find(|served| served.facts.name == name)
    }

    /// The most that a question can cost: every byte of the prompt a token, however it is cached, and a reply up to its cap.
    pub fn worst_case(&self, model: &str, request: &Request) -> Cost {
        let served = self.served(model);
        let overhead = match served.map(|served| served.facts.provider) {
            // Bytes are counted there, and none is added.
            Some(ProviderName::Command | ProviderName::Mailbox) => 0,
            _ => MAX_OVERHEAD_TOKENS,
        };
        let rates = served.and_then(|served| served.rates.as_ref());
        prices::worst_case(rates, request.bytes() as u64 + overhead, request.max_output)
    }

    /// What a reply cost: by the provider's count, nothing where it was certainly not billed, else the worst case that was
    /// reserved for it. Replies of programs and people cost their bytes.
    pub fn cost(&self, model: &str, request: &Request, reserved: &Cost, reply: &Reply) -> Cost {
        let Some(served) = self.served(model) else {
            return *reserved;
        };
        if let Some(usage) = &reply.usage {
            return prices::cost_of_usage(served.rates.as_ref(), usage);
        }
        if !reply.is_billable {
            return Cost {
                tokens: 0,
                nano_usd: served.rates.map(|_| 0),
                assumed: false,
            };
        }
        if served.facts.provider.is_unpriced() {
            return Cost {
                tokens: (request.bytes() + reply.text.len()) as u64,
                nano_usd: None,
                assumed: false,
            };
        }
        Cost {
            assumed: true,
            ..*reserved
        }
    }

    /// Questions that wait, and for what: the first that comes back first.
    pub fn waiting_requests(&self) -> Vec<WaitingRequest> {
        let mut waiting: Vec<_> = self.lock_waiting().values().cloned().collect();
        waiting.sort_by_key(|waiting| (waiting.until.is_none(), waiting.until));
        waiting
    }

    /// Asks. What the server does ends as a reply; dropping the future ends the question.
    pub async fn ask(
        &self,
        model: &str,
        request: &Request,
        place: &RequestOrigin,
    ) -> RequestOutcome {
        let Some(served) = self.served(model) else {
            let detail = format!("the config has no model `{model}`");
            return RequestOutcome::Reply(
                Reply::new(ReplyOutcome::Fatal, String::new())
                    .with_detail(detail)
                    .not_billed(),
            );
        };
        let _mailbox_wait;
        let _slot;
        if served.facts.provider == ProviderName::Mailbox {
            // A person takes hours: nobody else is kept waiting for it.
            _mailbox_wait =
                Some(self.register_wait(served, place, None, "for a reply in the mailbox"));
        } else {
            // It is never closed.
            _slot = self.slots.acquire().await.ok();
        }
        self.send_with_retries(served, request, place).await
    }

    /// Sends until there is an end to it.
    async fn send_with_retries(
        &self,
        served: &ServedModel,
        request: &Request,
        place: &RequestOrigin,
    ) -> RequestOutcome {
        let deadline = Instant::now() + self.patience;
        let mut first = None;
        let mut tries = 0;
        let mut last: Option<TurnedAway> = None;
        loop {
            let pass = match served.breaker.admit() {
                Admission::Allowed(pass) => pass,
                Admission::Blocked { until, why } if until <= deadline => {
                    let _wait = self.register_wait(served, place, Some(until), &why);
                    sleep_until(until).await;
                    continue;
                }
                Admission::Blocked { until, why } => {
                    let after = Some(until.saturating_duration_since(Instant::now()));
                    let detail = last.map_or(why, |last| last.detail);
                    return turned_away_reply(detail, after, tries, first);
                }
            };
            tries += 1;
            let begun = *first.get_or_insert_with(Instant::now);
            let away = match served.provider.send(request, place).await {
                Attempt::Pending => return RequestOutcome::Pending,
                Attempt::Ended(reply) => {
                    match reply.outcome {
                        ReplyOutcome::Lost => {
                            let why = reply.detail.as_deref().unwrap_or("a reply was lost");
                            pass.report_failure(None, why);
                        }
                        _ => pass.report_success(),
                    }
                    let seconds = begun.elapsed().as_secs_f64();
                    return RequestOutcome::Reply(Reply {
                        tries,
                        seconds,
                        ..reply
                    });
                }
                Attempt::TurnedAway(away) => away,
            };
            match away.is_rate_limit {
                true => pass.report_rate_limit(away.retry_after, &away.detail),
                false => pass.report_failure(away.retry_after, &away.detail),
            }
            let wait = away.retry_after.unwrap_or_else(|| retry::backoff(tries));
            let until = Instant::now() + wait;
            if away.is_final || tries > self.retries || until > deadline {
                return turned_away_reply(away.detail, away.retry_after, tries, first);
            }
            tracing::debug!(
                model = served.facts.name,
                step = place.step,
                tries,
                ?wait,
                why = away.detail,
                "turned away"
            );
            let _wait = self.register_wait(served, place, Some(until), &away.detail);
            sleep_until(until).await;
            last = Some(away);
        }
    }

    fn lock_waiting(&self) -> MutexGuard<'_, BTreeMap<u64, WaitingRequest>> {
        // Nothing is left half done under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question on the list of those that wait, for as long as the result lives.
    fn register_wait(
        &self,
        served: &ServedModel,
        place: &RequestOrigin,
        until: Option<Instant>,
        why: &str,
    ) -> WaitGuard<'_> {
        let number = self.next_wait.fetch_add(1, Ordering::Relaxed);
        let waiting = WaitingRequest {
            model: served.facts.name.clone(),
            task: place.task.clone(),
            step: place.step,
            until: until.map(Instant::into_std),
            why: why.to_owned(),
        };
        self.lock_waiting().insert(number, waiting);
        WaitGuard {
            client: self,
            number,
        }
    }
}

fn turned_away_reply(
    detail: String,
    retry_after: Option<Duration>,
    tries: u32,
    first: Option<Instant>,
) -> RequestOutcome {
    RequestOutcome::Reply(Reply {
        retry_after,
        tries,
        seconds: first.map_or(0.0, |first| first.elapsed().as_secs_f64()),
        ..Reply::new(ReplyOutcome::TurnedAway, String::new())
            .with_detail(detail)
            .not_billed()
    })
}

fn model_facts(model: &ModelSettings) -> ModelFacts {
    ModelFacts {
        name: model.name.clone(),
        provider: model.provider,
        weight: model.weight,
        context_tokens: model.context_tokens(),
        max_output_tokens: model.max_output_tokens(),
        is_priced: model.price.is_some(),
    }
}

/// A line on the list of those that wait.
struct WaitGuard<'a> {
    client: &'a Client,
    number: u64,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.client.lock_waiting().remove(&self.number);
    }
}
