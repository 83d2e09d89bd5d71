//! Tests of wishes for room, also in every order in which threads may meet.

use super::*;
use crate::limits::memory::Memory;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tokio::{
    task::{JoinHandle, unconstrained, yield_now},
    time::sleep,
};

const MINUTE: Duration = Duration::from_secs(60);

fn asks(pressure: &Arc<Pressure>, scope: Scope, bytes: usize) -> JoinHandle<Room> {
    let pressure = pressure.clone();
    tokio::spawn(async move { pressure.make_room(scope, Room::bytes(bytes), Instant::now() + MINUTE).await })
}

#[tokio::test(start_paused = true)]
async fn a_wish_ends_at_its_deadline_and_at_once_where_nobody_makes_room() {
    let (pressure, began) = (Pressure::new(1), Instant::now());
    assert!(pressure.make_room(Scope::Host, Room::PLACE, began + MINUTE).await.is_none());
    let evicting = pressure.evicting();
    assert!(pressure.make_room(Scope::Tenant(7), Room::PLACE, began + MINUTE).await.is_none(), "there is no such");
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The evictor is busy for longer than that.
    assert!(pressure.make_room(Scope::Host, Room::PLACE, began + MINUTE).await.is_none());
    assert_eq!(began.elapsed(), MINUTE);
    assert!(pressure.make_room(Scope::Host, Room::PLACE, began + MINUTE).await.is_none());
    assert_eq!(began.elapsed(), MINUTE);
    drop(evicting);
    assert!(pressure.make_room(Scope::Host, Room::PLACE, began + 2 * MINUTE).await.is_none());
    assert_eq!(began.elapsed(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_wish_is_answered_by_a_round_that_began_after_it_and_none_is_lost_among_others() {
    let pressure = Pressure::new(1);
    let _evicting = pressure.evicting();
    let first = asks(&pressure, Scope::Host, 10);
    assert_eq!(pressure.wishes(Scope::Host).await, (1, Room::bytes(10)));
    // While its round is under way, two more come: for the evictor they are one notice.
    let others = [20, 30].map(|bytes| asks(&pressure, Scope::Host, bytes));
    yield_now().await;
    let freed = Room { sessions: 1, bytes: 15 };
    pressure.was_parked(0, freed);
    pressure.answer(Scope::Host, 1);
    assert_eq!(first.await.unwrap(), freed);
    sleep(Duration::from_secs(1)).await;
    assert!(others.iter().all(|other| !other.is_finished()));
    assert_eq!(pressure.wishes(Scope::Host).await, (3, Room::bytes(50)));
    pressure.answer(Scope::Host, 3);
    for other in others {
        assert_eq!(other.await.unwrap(), freed, "it was freed since they asked");
    }
    // An older answer takes none back.
    pressure.answer(Scope::Host, 1);
    assert_eq!(pressure.parked(), 1);
}

#[tokio::test(start_paused = true)]
async fn room_of_a_tenant_is_the_hosts_too_and_no_other_tenants() {
    let pressure = Pressure::new(2);
    let _evicting = pressure.evicting();
    let scopes: Vec<_> = pressure.scopes().collect();
    assert_eq!(scopes, [Scope::Host, Scope::Tenant(0), Scope::Tenant(1)]);
    let asked: Vec<_> = scopes.iter().map(|scope| asks(&pressure, *scope, 10)).collect();
    for scope in &scopes {
        assert_eq!(pressure.wishes(*scope).await, (1, Room::bytes(10)));
    }
    let (part, whole) = (Room::bytes(40), Room { sessions: 1, bytes: 60 });
    pressure.was_parked(0, part);
    pressure.was_dropped(0, whole);
    scopes.iter().for_each(|scope| pressure.answer(*scope, 1));
    let mut told = Vec::new();
    for asked in asked {
        told.push(asked.await.unwrap());
    }
    let all = Room { sessions: 1, bytes: 100 };
    assert_eq!(told, [all, all, Room::default()]);
    assert_eq!((pressure.parked(), pressure.dropped()), (0, 1), "a part of a session is no session");
}

#[tokio::test(start_paused = true)]
async fn who_grows_waits_for_room_where_it_is_missing_and_only_if_there_can_be_any() {
    let (pressure, began) = (Pressure::new(1), Instant::now());
    let host = Memory::new(1000);
    let tenant = host.within(Level::Tenant, Some(500));
    let user = tenant.within(Level::User, Some(300));
    let _evicting = pressure.evicting();
    let grow = async |of: &Arc<Memory>, more| {
        let mut charge = of.charge(0);
        pressure.grow(&mut charge, more, Some(0), began + MINUTE).await.map_err(|full| full.level)
    };
    assert_eq!(grow(&user, 301).await, Err(Level::User));
    assert_eq!(grow(&tenant, 501).await, Err(Level::Tenant));
    assert_eq!(began.elapsed(), Duration::ZERO);
    // An idle session of the tenant is parked in two parts; then there is none.
    let mut idle = vec![tenant.charge(100), tenant.charge(350)];
    let evictor = tokio::spawn({
        let pressure = pressure.clone();
        async move {
            loop {
                let (wish, need) = pressure.wishes(Scope::Tenant(0)).await;
                assert_eq!(need, Room::bytes(400));
                if let Some(part) = idle.pop() {
                    pressure.was_parked(0, Room::bytes(part.bytes()));
                }
                pressure.answer(Scope::Tenant(0), wish);
            }
        }
    });
    assert_eq!(grow(&tenant, 400).await, Ok(()));
    let _taken = tenant.charge(50);
    assert_eq!(grow(&tenant, 400).await, Ok(()), "the second part is gone, too");
    let _more = tenant.charge(150);
    assert_eq!(grow(&tenant, 400).await, Err(Level::Tenant));
    assert_eq!(began.elapsed(), Duration::ZERO);
    // Nobody answers for the host.
    assert_eq!(grow(&host, 900).await, Err(Level::Host));
    assert_eq!(began.elapsed(), MINUTE);
    evictor.abort();
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A task's wake-up, until it is polled.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs tasks in every order in which they could be polled; returns the number of orders. Each has to end.
fn in_every_order(tasks: impl Fn() -> Vec<Task>) -> usize {
    // The choices of the present order, each with the number of those that there were.
    let (mut choices, mut orders): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
    loop {
        // Without tokio's budget, which makes a task wait that has gone on for long.
        let woken = || Arc::new(Woken(true.into()));
        let mut tasks: Vec<_> =
            tasks().into_iter().map(|task| (Some(Box::pin(unconstrained(task))), woken())).collect();
        for step in 0.. {
            let can_go_on = |(task, woken): &(Option<_>, Arc<Woken>)| task.is_some() && woken.0.load(Ordering::Relaxed);
            let ready: Vec<_> = (0..tasks.len()).filter(|it| can_go_on(&tasks[*it])).collect();
            if ready.is_empty() {
                break;
            }
            if step == choices.len() {
                choices.push((0, ready.len()));
            }
            let (task, woken) = &mut tasks[ready[choices[step].0]];
            woken.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(woken.clone());
            if task.as_mut().is_some_and(|task| task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()) {
                *task = None;
            }
        }
        let asleep: Vec<_> = (0..tasks.len()).filter(|it| tasks[*it].0.is_some()).collect();
        assert!(asleep.is_empty(), "{asleep:?} sleep for ever after {choices:?}");
        orders += 1;
        while let Some((chosen, of)) = choices.pop() {
            if chosen + 1 < of {
                choices.push((chosen + 1, of));
                break;
            }
        }
        if choices.is_empty() {
            return orders;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_order_each_wish_is_answered_and_by_a_round_that_began_after_it() {
    let orders = in_every_order(|| {
        let pressure = Pressure::new(1);
        let (asked, rounds) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Vec::new())));
        let mut tasks: Vec<Task> = Vec::new();
        for _ in 0..2 {
            let (pressure, asked, rounds) = (pressure.clone(), asked.clone(), rounds.clone());
            tasks.push(Box::pin(async move {
                let _evicting = pressure.evicting();
                yield_once().await;
                *asked.lock().unwrap() += 1;
                let begun_before = rounds.lock().unwrap().len();
                let freed = pressure.make_room(Scope::Host, Room::bytes(1), Instant::now() + MINUTE).await;
                let answered: usize = rounds.lock().unwrap().iter().skip(begun_before).sum();
                assert!(answered > 0 && freed.bytes > 0, "{freed:?} by rounds of {answered} wishes");
            }));
        }
        tasks.push(Box::pin(async move {
            let mut served = 0;
            while served < 2 {
                let (wish, need) = pressure.wishes(Scope::Host).await;
                assert!(need.bytes <= *asked.lock().unwrap());
                rounds.lock().unwrap().push(need.bytes);
                served += need.bytes;
                // Others may ask while the round is under way, and after its room is there.
                yield_once().await;
                pressure.was_parked(0, need);
                yield_once().await;
                pressure.answer(Scope::Host, wish);
            }
        }));
        tasks
    });
    assert!(orders > 100, "only {orders} orders");
}

/// Lets the others go on.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
