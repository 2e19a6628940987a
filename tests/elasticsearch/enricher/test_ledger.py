"""Whatever workers do and however they die, every change is settled by somebody, and none by two at a time."""

from hypothesis import given
from hypothesis import strategies as st

from m3plugins_elasticsearch.enricher.ledger import Claim, Ledger
from m3plugins_elasticsearch.enricher.ranges import left_out, merged, within

runs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda run: (run[0], run[0] + run[1])), max_size=8)


def numbers(ranges):
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(runs, st.integers(-1, 50))
def test_merged_ranges_are_the_same_numbers_apart_and_ascending(ranges, above):
    found = merged(ranges, above=above)
    assert {n for n in numbers(ranges) if n > above} <= numbers(found) <= numbers(ranges)
    assert all(last + 1 < first for (_, last), (first, _) in zip(found, found[1:], strict=False))


@given(runs, st.integers(-1, 50), st.integers(-1, 50))
def test_what_ranges_leave_out_is_counted(ranges, after, upto):
    kept = merged(ranges)
    assert left_out(kept, after, upto) == len(set(range(after + 1, upto + 1)) - numbers(ranges))
    assert numbers(within(kept, after, upto)) >= numbers(ranges) & set(range(after + 1, upto + 1))


def test_of_too_many_ranges_the_longest_are_kept():
    assert merged([(0, 0), (2, 9), (11, 12)], most=2) == ((2, 9), (11, 12))


steps = st.lists(st.tuples(st.sampled_from(["take", "settle", "die", "write"]), st.integers(0, 3), st.integers(1, 9)))


@given(steps)
def test_every_change_is_settled_once_or_in_one_claim_or_not_handed_out(schedule):
    ledger, checkpoint, dead, settled = Ledger("h"), 10, set(), set()
    for step, worker, size in schedule:
        session = f"{worker}"
        before = ledger.checkpoint
        if step == "write":
            checkpoint += size
        elif step == "die":
            dead.add(session)
        elif session in dead:
            continue
        elif step == "settle":
            if claim := ledger.left_by({session}):
                settled |= set(range(claim.after + 1, claim.upto + 1))
                ledger = ledger.settled(claim, [checkpoint + 1])
                checkpoint += 1
        elif ledger.left_by({session}) is None:
            if left := ledger.left_by(dead):
                ledger = ledger.taken_over(left, session)
            elif ledger.handed < checkpoint:
                ledger = ledger.handing_out(min(checkpoint, ledger.handed + size), session)
        claims = [set(range(claim.after + 1, claim.upto + 1)) for claim in ledger.claims]
        assert sum(map(len, claims)) == len(set().union(*claims))
        assert set().union(settled, *claims) == set(range(ledger.handed + 1))
        assert set(range(ledger.checkpoint + 1)) <= settled
        assert ledger.checkpoint >= before
        assert Ledger.from_dict(ledger.to_dict()) == ledger


def test_a_claim_knows_the_workers_that_died_at_it_not_those_that_gave_it_back():
    ledger = Ledger("h").handing_out(9, "a")
    (claim,) = ledger.claims
    assert claim.deaths == 0
    (claim,) = ledger.released("a").taken_over(ledger.released("a").claims[0], "b").claims
    assert (claim.session, claim.deaths) == ("b", 0)
    ledger = ledger.taken_over(ledger.claims[0], "b")
    assert ledger.claims == (Claim(-1, 9, "b", 1),)
    ledger = ledger.taken_over(ledger.claims[0], "c")
    assert ledger.claims == (Claim(-1, 9, "c", 2),)
    ledger = ledger.taken_over(ledger.claims[0], "d")
    assert ledger.advanced(ledger.claims[0], 4).claims == (Claim(4, 9, "d", 2),)  # the next document has killed nobody


def test_a_ledger_of_before_deaths_were_counted_is_read():
    stored = Ledger("h").handing_out(9, "a").to_dict()
    del stored["claims"][0]["deaths"]
    assert Ledger.from_dict(stored) == Ledger("h").handing_out(9, "a")
