#include "tie/priority_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <tuple>

namespace tailor::tie {
namespace {

using Order = std::tuple<double, int64_t, uint64_t>;

TEST(PriorityQueue, OrdersByKeyThenArrivalThenId) {
  PriorityQueue queue;
  queue.push(0, {2.0, 5, 1});
  queue.push(1, {1.0, 9, 3});
  queue.push(2, {1.0, 9, 2});
  queue.push(3, {1.0, 7, 8});
  EXPECT_EQ(queue.pop().id, 8u);
  EXPECT_EQ(queue.pop().id, 2u);
  EXPECT_EQ(queue.pop().id, 3u);
  EXPECT_EQ(queue.pop().id, 1u);
  EXPECT_TRUE(queue.empty());
}

TEST(PriorityQueue, HandlesSurviveTheMovesOfOthers) {
  PriorityQueue queue;
  const PriorityQueue::Handle late = 77;  // handles need not be dense
  queue.push(late, {100.0, 0, 1});
  for (uint32_t i = 2; i < 60; ++i) queue.push(i, {static_cast<double>(i), 0, i});
  for (int i = 0; i < 30; ++i) queue.pop();
  EXPECT_EQ(queue.at(late).id, 1u);
  queue.rekey(late, -1.0);
  EXPECT_EQ(queue.top().id, 1u);
  EXPECT_EQ(queue.top_handle(), late);
  queue.erase(late);
  EXPECT_EQ(queue.top().id, 32u);
}

TEST(PriorityQueue, EqualsASortedSetUnderRandomOperations) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    PriorityQueue queue;
    std::set<Order> model;
    std::map<PriorityQueue::Handle, Order> inside;
    uint64_t next_id = 0;
    for (int step = 0; step < 2000; ++step) {
      const auto choice = random() % 10;
      auto any = [&] {
        auto it = inside.begin();
        std::advance(it, random() % inside.size());
        return it;
      };
      if (inside.empty() || choice < 4) {
        // Few distinct keys and arrivals, so that ties happen all the time.
        const Order order{static_cast<double>(random() % 5), static_cast<int64_t>(random() % 3),
                          next_id++};
        PriorityQueue::Handle handle = 0;  // the first that is free: they are used again
        while (inside.count(handle)) ++handle;
        ASSERT_FALSE(queue.contains(handle));
        queue.push(handle, {std::get<0>(order), std::get<1>(order), std::get<2>(order)});
        inside[handle] = order;
        model.insert(order);
      } else if (choice < 6) {
        const auto it = any();
        model.erase(it->second);
        std::get<0>(it->second) = static_cast<double>(random() % 5);
        model.insert(it->second);
        queue.rekey(it->first, std::get<0>(it->second));
      } else if (choice < 8) {
        const auto it = any();
        model.erase(it->second);
        queue.erase(it->first);
        inside.erase(it);
      } else {
        const auto handle = queue.top_handle();
        const auto entry = queue.pop();
        const Order order{entry.key, entry.arrival, entry.id};
        ASSERT_EQ(order, *model.begin());
        ASSERT_EQ(inside.at(handle), order);
        model.erase(order);
        inside.erase(handle);
      }
      queue.check_integrity();
      ASSERT_EQ(queue.size(), model.size());
      if (!model.empty()) {
        ASSERT_EQ(queue.top().id, std::get<2>(*model.begin()));
      }
    }
  }
}

TEST(PriorityQueue, RekeyAllOrdersByTheNewKeys) {
  std::mt19937_64 random(3);
  for (size_t size = 0; size < 200; ++size) {
    PriorityQueue queue;
    std::map<PriorityQueue::Handle, uint64_t> ids;
    for (uint32_t id = 0; id < size; ++id) {
      const auto handle = static_cast<PriorityQueue::Handle>(size) - id;
      queue.push(handle, {static_cast<double>(random() % 50), 0, id});
      ids[handle] = id;
    }
    std::set<Order> model;
    queue.rekey_all([&](PriorityQueue::Handle handle, const PriorityQueue::Entry& entry) {
      EXPECT_EQ(ids.at(handle), entry.id);
      const double key = static_cast<double>(entry.id * 7919 % 31) - entry.key;
      model.insert({key, 0, entry.id});
      return key;
    });
    queue.check_integrity();
    for (const Order& order : model) ASSERT_EQ(queue.pop().id, std::get<2>(order));
    ASSERT_TRUE(queue.empty());
  }
}

TEST(PriorityQueueDeathTest, RefusesNanTakenAndStaleHandles) {
  PriorityQueue queue;
  EXPECT_DEATH(queue.push(5, {std::nan(""), 0, 0}), "must be a number");
  queue.push(5, {1.0, 0, 0});
  EXPECT_DEATH(queue.push(5, {1.0, 0, 0}), "names one entry");
  queue.erase(5);
  EXPECT_DEATH(queue.erase(5), "that is inside");
}

}  // namespace
}  // namespace tailor::tie
