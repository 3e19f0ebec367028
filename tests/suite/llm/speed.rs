//! The CPU time of a request.

use std::time::Duration;

use kforge::event::ReplyOutcome;

use crate::llm::requests::PROTOCOLS;
use crate::llm::server::{Server, ServerAction};
use crate::llm::wire::{events, one_model};
use crate::llm::{client, expect_reply, origin, request, runtime};

/// The CPU time of this thread.
fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes only to the structure.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The limit is that of a whole proposal in an optimized build. This is a part of it, in any build.
#[test]
fn long_prompt_and_reply_take_little_cpu_time() {
    const ROUNDS: u32 = 10;
    for (protocol, ends, _) in PROTOCOLS {
        let piece = "    acc[0] += \"x\" * y;\n".repeat(6);
        let pieces = vec![piece.as_str(); 64];
        let all: Vec<_> = events(protocol, &pieces, ends);
        let length = piece.len() * 64;
        let server = Server::start(move |_, _| {
            ServerAction::Events(
                all.iter()
                    .map(|event| (Duration::ZERO, event.clone()))
                    .collect(),
                true,
            )
        });
        let client = client(&one_model(protocol, &server.url, ""));
        let mut request = request();
        request.parts[1].text = "for (int i = 0; i < n; ++i) { \"sum\" += x[i]; }\n".repeat(8600);
        assert!(request.bytes() > 400_000);
        let each = runtime().block_on(async {
            let model = format!("{protocol}/m-1");
            client.ask(&model, &request, &origin()).await;
            let before = thread_cpu_time();
            for _ in 0..ROUNDS {
                let reply = expect_reply(client.ask(&model, &request, &origin()).await);
                assert_eq!(
                    (reply.outcome, reply.text.len()),
                    (ReplyOutcome::Complete, length)
                );
            }
            (thread_cpu_time() - before) / ROUNDS
        });
        println!("{protocol}: {each:?} of CPU time per request");
        assert!(each < Duration::from_millis(40), "{protocol}: {each:?}");
    }
}
