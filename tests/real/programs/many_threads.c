// SPDX-License-Identifier: Apache-2.0
// argv[1] threads (each with a mutex, a condition variable and a little work) hand a number around argv[2] times.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t* turn;
static uint64_t number = 1;
static long holder, handed, threads, goal;
static _Thread_local uint64_t mine;

static void* pass_on(void* argument) {
  const long me = (long)(intptr_t)argument;
  pthread_mutex_lock(&lock);
  for (;;) {
    while (holder != me) pthread_cond_wait(&turn[me], &lock);
    if (handed < goal) {
      mine += number;
      number = number * 6364136223846793005u + 1442695040888963407u + (uint64_t)me;
      if (++handed % (goal / 10) == 0) {
        printf("handed %ld\n", handed);
        fflush(stdout);
      }
    }
    holder = (me + 1) % threads;
    pthread_cond_signal(&turn[holder]);
    if (handed >= goal) break;
  }
  pthread_mutex_unlock(&lock);
  return (void*)(uintptr_t)mine;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  threads = atol(argv[1]);
  goal = atol(argv[2]);
  turn = calloc((size_t)threads, sizeof *turn);
  pthread_t* ids = calloc((size_t)threads, sizeof *ids);
  for (long i = 0; i < threads; i++) pthread_cond_init(&turn[i], NULL);
  for (long i = 0; i < threads; i++)
    if (pthread_create(&ids[i], NULL, pass_on, (void*)(intptr_t)i) != 0) return 1;
  uint64_t sum = 0;
  for (long i = 0; i < threads; i++) {
    void* value;
    pthread_join(ids[i], &value);
    sum ^= (uint64_t)(uintptr_t)value;
  }
  printf("%llu %llu\n", (unsigned long long)number, (unsigned long long)sum);
  return 0;
}
