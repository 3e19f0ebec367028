//! All models of a run behind one question: how many at once, patience, and what it costs.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::command::Command;
use super::gate::{Entry, Gate};
use super::http::{Http, Times};
use super::mailbox::Mailbox;
use super::models::{Model, Models, ProviderName};
use super::prices::{self, Rates};
use super::replay::Replay;
use super::secret::Secrets;
use super::settings::Settings;
use super::wire::Wire;
use super::{Answer, Attempt, Place, Provider, Reply, Request, TurnedAway, retry};
use crate::base::Failure;
use crate::event::{Cost, ReplyOutcome};

/// Tokens that a server adds to a prompt at most, for roles and the like.
const AROUND: u64 = 256;

/// Models to ask. Shared by all that ask.
pub struct Client {
    models: Vec<Served>,
    slots: Semaphore,
    retries: u32,
    patience: Duration,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    next: AtomicU64,
}

/// A model and who answers for it.
struct Served {
    facts: ModelFacts,
    rates: Option<Rates>,
    provider: Arc<dyn Provider>,
    gate: Arc<Gate>,
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
pub struct Waiting {
    pub model: String,
    pub task: String,
    pub step: u64,
    /// Until when; `None` where it depends on a person.
    pub until: Option<std::time::Instant>,
    pub why: String,
}

impl Client {
    /// Reads the keys and makes ready; sends nothing. The settings are those of [`Settings::decided`].
    pub fn open(settings: &Settings) -> Result<Self, Failure> {
        let Models::Listed(models) = &settings.models else {
            return Err(Failure::usage("which models to ask is not decided"));
        };
        let times = Times {
            total: Duration::from_secs_f64(settings.timeout_seconds),
            idle: Duration::from_secs_f64(settings.idle_seconds),
        };
        let secrets = Secrets::of(models);
        let mut gates: HashMap<String, Arc<Gate>> = HashMap::new();
        let mut served = Vec::new();
        for model in models {
            let provider: Arc<dyn Provider> = match Wire::of(model.provider) {
                Some(wire) => Arc::new(Http::open(model, wire, times, &secrets)?),
                None => match model.provider {
                    ProviderName::Command => Arc::new(Command::open(model, times.total)?),
                    ProviderName::Replay => Arc::new(Replay::open(model)?),
                    _ => Arc::new(Mailbox::new(settings.wait)),
                },
            };
            let endpoint = match model.provider.endpoint() {
                Some(_) => format!("{:?} {:?}", model.base_url, model.key_env),
                None => model.name.clone(),
            };
            served.push(Served {
                facts: facts(model),
                rates: model
                    .price
                    .map(|price| price.rates(model.provider == ProviderName::Anthropic)),
                provider,
                gate: Arc::clone(gates.entry(endpoint).or_default()),
            });
        }
        Ok(Self {
            models: served,
            slots: Semaphore::new(settings.concurrency),
            retries: settings.retries,
            patience: Duration::from_secs_f64(settings.patience_seconds),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// A client whose models are answered for by others: for tests, and for programs that bring their own.
    pub(crate) fn with(settings: &Settings, models: Vec<(Model, Arc<dyn Provider>)>) -> Self {
        let serve = |(model, provider): (Model, Arc<dyn Provider>)| Served {
            facts: facts(&model),
            rates: model.price.map(|price| price.rates(false)),
            provider,
            gate: Arc::default(),
        };
        Self {
            models: models.into_iter().map(serve).collect(),
            slots: Semaphore::new(settings.concurrency),
            retries: settings.retries,
            patience: Duration::from_secs_f64(settings.patience_seconds),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
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

    fn served(&self, name: &str) -> Option<&Served> {
        self.models.iter().find(|served| served.facts.name == name)
    }

    /// The most that a question can cost: every byte of the prompt a token, however it is cached, and a reply up to its cap.
    pub fn worst_case(&self, model: &str, request: &Request) -> Cost {
        let served = self.served(model);
        let around = match served.map(|served| served.facts.provider) {
            // Bytes are counted there, and none is added.
            Some(ProviderName::Command | ProviderName::Mailbox) => 0,
            _ => AROUND,
        };
        let rates = served.and_then(|served| served.rates.as_ref());
        prices::worst_case(rates, request.bytes() as u64 + around, request.most_output)
    }

    /// What a reply cost: by the provider's count, nothing where it was certainly not billed, else the worst case that was
    /// reserved for it. Replies of programs and people cost their bytes.
    pub fn cost(&self, model: &str, request: &Request, reserved: &Cost, reply: &Reply) -> Cost {
        let Some(served) = self.served(model) else {
            return *reserved;
        };
        if let Some(usage) = &reply.usage {
            return prices::cost(served.rates.as_ref(), usage);
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
    pub fn waiting(&self) -> Vec<Waiting> {
        let mut waiting: Vec<_> = self.list().values().cloned().collect();
        waiting.sort_by_key(|waiting| (waiting.until.is_none(), waiting.until));
        waiting
    }

    /// Asks. What the server does ends as a reply; dropping the future ends the question.
    pub async fn ask(&self, model: &str, request: &Request, place: &Place) -> Answer {
        let Some(served) = self.served(model) else {
            let words = format!("the config has no model `{model}`");
            return Answer::Reply(
                Reply::new(ReplyOutcome::Fatal, String::new())
                    .because(words)
                    .unbilled(),
            );
        };
        let _waits;
        let _slot;
        if served.facts.provider == ProviderName::Mailbox {
            // A person takes hours: nobody else is kept waiting for it.
            _waits = Some(self.wait(served, place, None, "for a reply in the mailbox"));
        } else {
            // It is never closed.
            _slot = self.slots.acquire().await.ok();
        }
        self.patiently(served, request, place).await
    }

    /// Sends until there is an end to it.
    async fn patiently(&self, served: &Served, request: &Request, place: &Place) -> Answer {
        let deadline = Instant::now() + self.patience;
        let mut first = None;
        let mut tries = 0;
        let mut last: Option<TurnedAway> = None;
        loop {
            let pass = match served.gate.enter() {
                Entry::Open(pass) => pass,
                Entry::Shut { until, why } if until <= deadline => {
                    let _shown = self.wait(served, place, Some(until), &why);
                    sleep_until(until).await;
                    continue;
                }
                Entry::Shut { until, why } => {
                    let after = Some(until.saturating_duration_since(Instant::now()));
                    let detail = last.map_or(why, |last| last.detail);
                    return turned_away(detail, after, tries, first);
                }
            };
            tries += 1;
            let begun = *first.get_or_insert_with(Instant::now);
            let away = match served.provider.send(request, place).await {
                Attempt::Pending => return Answer::Pending,
                Attempt::Ended(reply) => {
                    match reply.outcome {
                        ReplyOutcome::Lost => {
                            let why = reply.detail.as_deref().unwrap_or("a reply was lost");
                            pass.failed(None, why);
                        }
                        _ => pass.well(),
                    }
                    let seconds = begun.elapsed().as_secs_f64();
                    return Answer::Reply(Reply {
                        tries,
                        seconds,
                        ..reply
                    });
                }
                Attempt::TurnedAway(away) => away,
            };
            match away.is_rate_limit {
                true => pass.too_many(away.retry_after, &away.detail),
                false => pass.failed(away.retry_after, &away.detail),
            }
            let wait = away.retry_after.unwrap_or_else(|| retry::backoff(tries));
            let until = Instant::now() + wait;
            if away.is_final || tries > self.retries || until > deadline {
                return turned_away(away.detail, away.retry_after, tries, first);
            }
            tracing::debug!(
                model = served.facts.name,
                step = place.step,
                tries,
                ?wait,
                why = away.detail,
                "turned away"
            );
            let _shown = self.wait(served, place, Some(until), &away.detail);
            sleep_until(until).await;
            last = Some(away);
        }
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        // Nothing is left half done under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question on the list of those that wait, for as long as the result lives.
    fn wait(&self, served: &Served, place: &Place, until: Option<Instant>, why: &str) -> Shown<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting {
            model: served.facts.name.clone(),
            task: place.task.clone(),
            step: place.step,
            until: until.map(Instant::into_std),
            why: why.to_owned(),
        };
        self.list().insert(number, waiting);
        Shown {
            client: self,
            number,
        }
    }
}

fn turned_away(
    detail: String,
    retry_after: Option<Duration>,
    tries: u32,
    first: Option<Instant>,
) -> Answer {
    Answer::Reply(Reply {
        retry_after,
        tries,
        seconds: first.map_or(0.0, |first| first.elapsed().as_secs_f64()),
        ..Reply::new(ReplyOutcome::TurnedAway, String::new())
            .because(detail)
            .unbilled()
    })
}

fn facts(model: &Model) -> ModelFacts {
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
struct Shown<'a> {
    client: &'a Client,
    number: u64,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.client.list().remove(&self.number);
    }
}
