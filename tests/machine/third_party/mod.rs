//! Requests to third-party servers from npm and PyPI. A test is ignored if its server cannot be installed.

mod aimock;
mod litellm;
mod llmock;
#[path = "../../suite/llm/requests.rs"]
mod requests;
mod servers;

crate::harness::tests!(
    aimock::all_protocols_streamed_and_whole,
    aimock::transient_errors_are_retried_and_permanent_ones_are_not,
    aimock::broken_streams_are_detected_and_not_retried,
    litellm::proxy_replies_and_errors_are_understood,
    llmock::retries_follow_the_servers_retry_after,
    llmock::stream_faults_are_detected,
);
