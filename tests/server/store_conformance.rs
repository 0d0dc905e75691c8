//! What every store promises, told as short stories and run on each store.
//!
//! A story is a function over a [`Fixture`]; the macro at the end makes a test of every story for SQLite, and of
//! every subject for PostgreSQL, whose stories share a server. To add a store, implement [`Fixture`] for it and name
//! it there.

mod accepting;
mod delivering;
mod disk;
mod erasing;
mod figures;
pub(crate) mod fixtures;
mod inlets;
mod listings;
mod operators;
mod rejected;
mod replaying;
mod retaining;
mod tenants;
mod webhooks;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use postrider::store::Store;
use postrider::store::postgres::{PostgresOptions, PostgresStore};
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};

use crate::support::postgres_server::Cluster;

const MASTER_KEY: [u8; 32] = [7; 32];

/// A store of a test's own that can be stopped and started again.
#[async_trait]
trait Fixture: Sized + Send {
    /// A fresh store; `memory_window_events` as in its options.
    async fn fresh(memory_window_events: u32) -> Self;
    fn store(&self) -> Arc<dyn Store>;
    /// Closes the store and opens it again on what it has kept.
    async fn restart(&mut self);
}

struct Sqlite {
    folder: tempfile::TempDir,
    memory_window_events: u32,
    store: Option<Arc<SqliteStore>>,
}

impl Sqlite {
    fn open(&mut self) {
        let options = SqliteOptions { max_bytes: None, memory_window_events: self.memory_window_events };
        let store = SqliteStore::open(self.folder.path(), &MasterKey::new(MASTER_KEY), options).unwrap();
        self.store = Some(Arc::new(store));
    }
}

#[async_trait]
impl Fixture for Sqlite {
    async fn fresh(memory_window_events: u32) -> Self {
        let mut fixture = Self { folder: tempfile::tempdir().unwrap(), memory_window_events, store: None };
        fixture.open();
        fixture
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn Store>
    }

    async fn restart(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await;
        }
        self.open();
    }
}

/// A database of its own on the server of its subject.
struct Postgres {
    options: PostgresOptions,
    store: Option<Arc<PostgresStore>>,
}

/// A server, and the database that each story gets a copy of: empty, with its schema.
struct Subject {
    server: Cluster,
    databases: AtomicU32,
}

tokio::task_local! {
    static SUBJECT: Arc<Subject>;
}

const TEMPLATE: &str = "template_of_stories";

impl Subject {
    async fn start() -> Arc<Self> {
        let server = Cluster::start().await;
        server.create_database(TEMPLATE, None).await;
        open_postgres(Postgres::options(&server.url(TEMPLATE))).await.close().await;
        Arc::new(Self { server, databases: AtomicU32::new(0) })
    }
}

impl Postgres {
    fn options(url: &str) -> PostgresOptions {
        PostgresOptions::new(url.to_owned().into())
    }
}

async fn open_postgres(options: PostgresOptions) -> PostgresStore {
    PostgresStore::open(options, &MasterKey::new(MASTER_KEY)).await.unwrap()
}

#[async_trait]
impl Fixture for Postgres {
    async fn fresh(memory_window_events: u32) -> Self {
        let subject = SUBJECT.get();
        let database = format!("story_{}", subject.databases.fetch_add(1, Ordering::Relaxed));
        subject.server.create_database(&database, Some(TEMPLATE)).await;
        let options = PostgresOptions { memory_window_events, ..Self::options(&subject.server.url(&database)) };
        let store = Some(Arc::new(open_postgres(options.clone()).await));
        Self { options, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn Store>
    }

    async fn restart(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await;
        }
        self.store = Some(Arc::new(open_postgres(self.options.clone()).await));
    }
}

type Story = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the stories of a subject, each to its end, and names those that failed.
async fn tell_on_postgres(stories: Vec<(&str, Story)>) {
    let subject = Subject::start().await;
    let mut failed = Vec::new();
    for (name, story) in stories {
        if tokio::spawn(SUBJECT.scope(Arc::clone(&subject), story)).await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "stories that failed: {}", failed.join(", "));
}

macro_rules! stories {
    ($($subject:ident: $($story:ident),+ $(,)?);+ $(;)?) => {
        mod sqlite {
            $($(
                #[tokio::test]
                async fn $story() {
                    super::$subject::$story::<super::Sqlite>().await;
                }
            )+)+
        }

        mod postgres {
            $(
                #[tokio::test]
                async fn $subject() {
                    super::tell_on_postgres(vec![
                        $((stringify!($story), Box::pin(super::$subject::$story::<super::Postgres>()))),+
                    ])
                    .await;
                }
            )+
        }
    };
}

stories! {
    accepting:
        an_accepted_event_is_there_after_a_restart,
        the_way_that_an_event_came_is_kept,
        an_event_that_matched_nothing_is_stored_and_shown,
        an_id_is_accepted_once,
        an_id_is_accepted_once_within_one_call,
        an_id_is_refused_for_another_event_and_nothing_of_the_call_is_stored,
        of_different_events_with_one_id_at_one_moment_one_is_accepted,
        an_id_is_accepted_once_by_concurrent_callers,
        two_tenants_may_use_one_id,
        many_callers_get_their_own_numbers,
        a_fan_out_to_a_thousand_webhooks_comes_back,
        a_closed_store_refuses;
    delivering:
        what_was_in_memory_is_read_back_after_a_restart,
        what_was_settled_is_not_read_back,
        a_stored_delivery_is_due_at_once_and_in_order,
        what_is_due_in_order_ends_before_what_must_wait,
        what_is_due_is_read_in_portions_that_fit_into_memory,
        a_probe_takes_the_newest_or_the_oldest_but_for_those_that_it_avoids,
        large_events_are_read_back_in_pages_that_fit_into_memory,
        a_failed_attempt_is_due_at_its_time,
        every_attempt_is_kept,
        a_long_response_is_kept,
        the_memory_window_ends_with_rows,
        a_parked_delivery_is_settled_by_a_caller_who_does_not_know,
        the_window_is_exact_after_a_restart,
        settling_twice_changes_nothing,
        a_settlement_for_nothing_changes_nothing,
        a_webhook_without_stored_deliveries_has_no_next_due,
        stored_pending_deliveries_are_counted_by_webhook,
        the_health_of_a_webhook_is_settled_too;
    erasing:
        an_erased_payload_is_gone_and_the_record_stays;
    operators:
        a_discarded_delivery_is_not_resurrected_by_a_retry,
        a_delivery_that_arrived_although_discarded_shows_as_delivered,
        a_dead_delivery_is_retried,
        a_skipped_delivery_is_retried,
        a_delivery_in_memory_can_be_discarded,
        a_delivered_one_is_neither_retried_nor_discarded,
        another_tenant_sees_and_changes_nothing,
        the_deliveries_of_a_deleted_webhook_are_discarded,
        the_figures_add_up,
        no_character_is_refused;
    listings:
        events_are_listed_newest_first_in_pages,
        events_are_filtered,
        a_topic_of_any_characters_is_found_by_its_patterns,
        what_is_rare_is_found_among_many,
        deliveries_merge_owed_lists_with_rows,
        deliveries_are_filtered,
        deliveries_are_paged_within_an_event,
        dead_ones_are_paged,
        a_made_up_cursor_is_refused,
        new_events_do_not_shift_a_page;
    replaying:
        a_job_makes_what_it_wants_pending_and_leaves_the_rest,
        a_job_is_for_a_webhook_a_topic_and_a_time,
        a_job_pauses_within_an_event_and_goes_on_after_a_restart,
        what_changed_between_scan_and_step_is_left_alone,
        a_job_discards_with_a_reason,
        a_job_adds_what_was_not_matched,
        the_jobs_of_a_webhook_end_with_it,
        every_delivery_in_a_wanted_state_is_looked_at_once,
        one_scan_reads_a_bounded_number_of_deliveries,
        jobs_are_listed_and_limited,
        an_event_is_sent_again_to_whom_it_was_owed_or_not,
        a_request_with_a_key_is_accepted_once,
        concurrent_requests_with_one_key_are_one;
    retaining:
        an_event_goes_when_all_of_it_is_old,
        a_purged_event_takes_everything_with_it,
        a_delivery_made_pending_again_keeps_its_event,
        many_events_are_purged_in_steps,
        old_attempts_go_and_their_deliveries_stay,
        a_tenant_can_have_its_own_cutoffs,
        records_that_are_over_are_purged;
    disk:
        what_is_stored_is_counted_to_the_byte,
        what_many_callers_store_is_counted_to_the_byte,
        the_quota_of_tokens_is_exact,
        tokens_that_ended_long_ago_are_forgotten,
        old_lines_of_the_log_go_and_a_line_says_which,
        lines_about_purges_go_without_another,
        a_purge_of_many_lines_goes_in_steps_and_over_restarts,
        the_newest_of_events_and_acts_is_known;
    tenants:
        a_tenant_comes_back_with_all_its_settings,
        a_tenant_s_name_is_unique_among_the_living,
        a_change_of_a_tenant_by_its_name_is_for_what_is_called_so,
        the_default_tenant_stays,
        a_tenant_with_something_to_lose_is_deleted_by_force_alone,
        a_tenant_that_is_not_there_gets_nothing,
        the_quota_of_webhooks_is_exact,
        what_is_pending_is_known_at_any_time,
        all_tenants_together_are_counted,
        the_last_use_of_a_token_is_noted,
        every_act_has_its_line,
        an_act_that_is_refused_has_none,
        nobody_s_act_has_none,
        the_log_is_read_in_pages_by_tenant_and_filter;
    figures:
        figures_add_up_over_writers_and_restarts,
        hours_and_days_are_made_once,
        old_figures_go_when_nothing_is_to_be_made_of_them,
        webhooks_are_ranked;
    inlets:
        an_inlet_comes_back_with_all_its_settings,
        inlets_are_a_tenant_s_and_go_with_it;
    rejected:
        a_message_that_is_longer_than_all_that_is_kept_pushes_no_others_out,
        what_came_beside_messages_counts_towards_their_bound;
    webhooks:
        a_webhook_comes_back_with_all_its_settings,
        a_webhook_is_turned_off_without_its_owner,
        a_name_is_unique_among_the_living,
        a_change_on_an_old_version_is_refused,
        a_change_can_close_the_circuit,
        a_deleted_webhook_is_gone,
        webhooks_are_listed_in_pages_and_by_name,
        tokens_and_tenants_are_listed_in_pages,
        the_settings_of_a_tenant_have_a_cap,
        every_tenant_has_its_own_webhooks,
        a_token_is_found_by_its_hash_until_it_is_revoked,
        a_store_that_works_says_so;
}
