//! The client for all models of a run: concurrency, retries, and what a request costs.
//!
//! Writes no files and knows no prompts. How one request is sent is up to its provider (`http`, `command`, `mailbox`, `replay`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::body::Timeouts;
use super::circuit_breaker::{BreakerDecision, CircuitBreaker};
use super::command::CommandProvider;
use super::http::HttpProvider;
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

/// The most tokens that a server adds to a prompt, for roles and the like.
const MAX_OVERHEAD_TOKENS: u64 = 256;

/// How often the fields of one request are changed because the server rejects them.
const MAX_FIELD_CHANGES: u32 = 12;

/// The models of a run. Shared by all concurrent requests.
pub struct Client {
    models: Vec<ServedModel>,
    replayed_run: Option<PathBuf>,
    /// Whether a request in a mailbox is waited for.
    waits_for_mailbox: bool,
    slots: Semaphore,
    retries: u32,
    patience: Duration,
    waiting: Mutex<BTreeMap<u64, WaitingRequest>>,
    next_wait: AtomicU64,
}

/// A model and its provider.
struct ServedModel {
    facts: ModelFacts,
    rates: Option<TokenRates>,
    provider: Arc<dyn Provider>,
    breaker: Arc<CircuitBreaker>,
}

/// Facts about a model that need no request.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// The name in the config, the briefs and the journal.
    pub name: String,
    pub provider: ProviderName,
    pub weight: f64,
    /// The context window, in tokens.
    pub context_tokens: u64,
    /// The default cap of a reply.
    pub max_output_tokens: u64,
    /// Whether its tokens have a price.
    pub is_priced: bool,
}

/// A request that waits for its server, or for a reply in the mailbox.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingRequest {
    pub model: String,
    pub task: String,
    pub step: u64,
    /// When it is sent again; `None` if it waits for a person.
    pub until: Option<std::time::Instant>,
    pub why: String,
}

impl Client {
    /// Reads the keys and sets up the providers; sends nothing. Takes the result of [`LlmSettings::resolved`].
    ///
    /// # Errors
    /// `Failure::environment` if a key is missing, `Failure::usage` if a setting is invalid.
    pub fn open(settings: &LlmSettings) -> Result<Self, Failure> {
        let ModelList::Listed(models) = &settings.models else {
            return Err(Failure::usage("`llm.models` is not resolved"));
        };
        let timeouts = Timeouts {
            total: Duration::from_secs_f64(settings.timeout_seconds),
            idle: Duration::from_secs_f64(settings.idle_seconds),
        };
        let secrets = Secrets::from_models(models);
        let mut breakers: HashMap<String, Arc<CircuitBreaker>> = HashMap::new();
        let mut served = Vec::new();
        for model in models {
            let provider: Arc<dyn Provider> = match Protocol::for_provider(model.provider) {
                Some(protocol) => {
                    Arc::new(HttpProvider::open(model, protocol, timeouts, &secrets)?)
                }
                None => match model.provider {
                    ProviderName::Command => {
                        Arc::new(CommandProvider::open(model, timeouts.total)?)
                    }
                    ProviderName::Replay => Arc::new(ReplayProvider::open(model)?),
                    _ => Arc::new(MailboxProvider::new(settings.wait)),
                },
            };
            let endpoint = match model.provider.endpoint() {
                Some(_) => format!("{:?} {:?}", model.base_url, model.key_env),
                None => model.name.clone(),
            };
            let surcharge = model.provider == ProviderName::Anthropic;
            served.push(ServedModel {
                facts: model_facts(model),
                rates: model.price.map(|price| price.rates(surcharge)),
                provider,
                breaker: Arc::clone(breakers.entry(endpoint).or_default()),
            });
        }
        Ok(Self {
            models: served,
            replayed_run: settings.replayed_run().map(Path::to_owned),
            waits_for_mailbox: settings.wait,
            slots: Semaphore::new(settings.concurrency),
            retries: settings.retries,
            patience: Duration::from_secs_f64(settings.patience_seconds),
            waiting: Mutex::default(),
            next_wait: AtomicU64::new(0),
        })
    }

    /// The directory of the run whose replies all models repeat, if they do.
    pub(crate) fn replayed_run(&self) -> Option<&Path> {
        self.replayed_run.as_deref()
    }

    /// Whether a request may be left in a mailbox for a later process.
    pub(crate) fn may_leave_requests(&self) -> bool {
        let mut models = self.models();
        !self.waits_for_mailbox && models.any(|model| model.provider == ProviderName::Mailbox)
    }

    /// The models, in the config's order.
    pub fn models(&self) -> impl Iterator<Item = &ModelFacts> {
        self.models.iter().map(|served| &served.facts)
    }

    /// The facts of one model.
    pub(crate) fn model(&self, name: &str) -> Option<&ModelFacts> {
        self.served(name).map(|served| &served.facts)
    }

    fn served(&self, name: &str) -> Option<&ServedModel> {
        self.models.iter().find(|served| served.facts.name == name)
    }

    /// The most that a request can cost: every byte of the prompt as a token at the highest input rate, and a reply of full length.
    /// For `command` and `mailbox` the tokens are estimated from the bytes of both.
    pub fn worst_case(&self, model: &str, request: &Request) -> Cost {
        let served = self.served(model);
        let bytes = request.bytes() as u64;
        if served.is_some_and(|served| served.facts.provider.is_unpriced()) {
            return Cost {
                assumed: true,
                ..prices::estimated_cost(bytes, request.max_output)
            };
        }
        let rates = served.and_then(|served| served.rates.as_ref());
        prices::worst_case(rates, bytes + MAX_OVERHEAD_TOKENS, request.max_output)
    }

    /// The cost of a reply: what the replayed run recorded, if the config has no other price; from the provider's token counts; zero if it was certainly not billed; else the reserved worst case.
    /// The tokens of `command` and `mailbox` are estimated from the bytes of prompt and reply.
    pub fn cost(&self, model: &str, request: &Request, reserved: &Cost, reply: &Reply) -> Cost {
        let Some(served) = self.served(model) else {
            return *reserved;
        };
        if let (Some(recorded), None) = (reply.recorded_cost, &served.rates) {
            return recorded;
        }
        if let Some(usage) = &reply.usage {
            return prices::cost_of_usage(served.rates.as_ref(), usage);
        }
        if !reply.is_billable {
            return Cost {
                nano_usd: served.rates.map(|_| 0),
                ..Cost::default()
            };
        }
        if served.facts.provider.is_unpriced() {
            return prices::estimated_cost(request.bytes() as u64, reply.text.len() as u64);
        }
        Cost {
            assumed: true,
            ..*reserved
        }
    }

    /// The waiting requests. The request that is sent again first comes first.
    pub fn waiting_requests(&self) -> Vec<WaitingRequest> {
        let mut waiting: Vec<_> = self.lock_waiting().values().cloned().collect();
        waiting.sort_by_key(|waiting| (waiting.until.is_none(), waiting.until));
        waiting
    }

    /// Sends a request to a model, with retries. Every failure becomes a reply; dropping the future ends the request.
    pub async fn ask(
        &self,
        model: &str,
        request: &Request,
        origin: &RequestOrigin,
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
            // A person takes hours: such a request takes no slot from others.
            _mailbox_wait =
                Some(self.register_wait(served, origin, None, "for a reply in the mailbox"));
        } else {
            // The semaphore is never closed.
            _slot = self.slots.acquire().await.ok();
        }
        self.send_with_retries(served, request, origin).await
    }

    /// Sends until the request ends, or until retries or patience are used up.
    async fn send_with_retries(
        &self,
        served: &ServedModel,
        request: &Request,
        origin: &RequestOrigin,
    ) -> RequestOutcome {
        let deadline = Instant::now() + self.patience;
        let mut state = RetryState::default();
        loop {
            let permit = match served.breaker.admit() {
                BreakerDecision::Allowed(permit) => permit,
                BreakerDecision::Blocked { until, why } if until <= deadline => {
                    let _wait = self.register_wait(served, origin, Some(until), &why);
                    sleep_until(until).await;
                    continue;
                }
                BreakerDecision::Blocked { until, why } => {
                    let after = until.saturating_duration_since(Instant::now());
                    let detail = state.last_detail.take().unwrap_or(why);
                    return state.turned_away(detail, Some(after));
                }
            };
            state.count();
            let away = match served.provider.send(request, origin).await {
                Attempt::Pending => return RequestOutcome::Pending,
                Attempt::Changed(note) => {
                    permit.report_success();
                    state.changes += 1;
                    if state.changes > MAX_FIELD_CHANGES {
                        return state.turned_away(note, None);
                    }
                    continue;
                }
                Attempt::Ended(reply) => {
                    if reply.outcome == ReplyOutcome::Lost {
                        let why = reply.detail.as_deref().unwrap_or("a reply was lost");
                        permit.report_failure(reply.retry_after, why);
                    } else {
                        permit.report_success();
                    }
                    return state.ended(reply);
                }
                Attempt::TurnedAway(away) => away,
            };
            if away.is_rate_limit {
                permit.report_rate_limit(away.retry_after, &away.detail);
            } else {
                permit.report_failure(away.retry_after, &away.detail);
            }
            let tries = state.tries - state.changes;
            let wait = (away.retry_after).unwrap_or_else(|| retry::backoff(tries));
            let until = Instant::now() + wait;
            if away.is_final || tries > self.retries || until > deadline {
                return state.turned_away(away.final_detail, away.retry_after);
            }
            log_retry(served, origin, &away, tries, wait);
            let _wait = self.register_wait(served, origin, Some(until), &away.detail);
            sleep_until(until).await;
            state.last_detail = Some(away.final_detail);
        }
    }

    fn lock_waiting(&self) -> MutexGuard<'_, BTreeMap<u64, WaitingRequest>> {
        // Every change under this lock is complete, so a poisoned lock is harmless.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a request as waiting until the guard is dropped.
    fn register_wait(
        &self,
        served: &ServedModel,
        origin: &RequestOrigin,
        until: Option<Instant>,
        why: &str,
    ) -> WaitGuard<'_> {
        let number = self.next_wait.fetch_add(1, Ordering::Relaxed);
        let waiting = WaitingRequest {
            model: served.facts.name.clone(),
            task: origin.task.clone(),
            step: origin.step,
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

/// The attempts of one request so far.
#[derive(Default)]
struct RetryState {
    first_sent: Option<Instant>,
    tries: u32,
    /// How many tries ended with a change of the request's fields.
    changes: u32,
    /// Why the server turned away the last attempt.
    last_detail: Option<String>,
}

impl RetryState {
    fn count(&mut self) {
        self.tries += 1;
        self.first_sent.get_or_insert_with(Instant::now);
    }

    fn seconds(&self) -> f64 {
        (self.first_sent).map_or(0.0, |first| first.elapsed().as_secs_f64())
    }

    fn ended(&self, reply: Reply) -> RequestOutcome {
        RequestOutcome::Reply(Reply {
            tries: self.tries,
            seconds: self.seconds(),
            ..reply
        })
    }

    /// The outcome of a request whose retries are used up.
    fn turned_away(&self, detail: String, retry_after: Option<Duration>) -> RequestOutcome {
        let reply = Reply::new(ReplyOutcome::TurnedAway, String::new());
        self.ended(Reply {
            retry_after,
            ..reply.with_detail(detail).not_billed()
        })
    }
}

fn log_retry(
    served: &ServedModel,
    origin: &RequestOrigin,
    away: &TurnedAway,
    tries: u32,
    wait: Duration,
) {
    tracing::debug!(
        model = served.facts.name,
        step = origin.step,
        tries,
        ?wait,
        why = away.detail,
        "turned away, will retry"
    );
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

/// Keeps a request on the list of waiting requests.
struct WaitGuard<'a> {
    client: &'a Client,
    number: u64,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.client.lock_waiting().remove(&self.number);
    }
}
