-- The rides that began in the interval, with what the model takes.
SELECT ride_id,
       km,
       fare,
       passengers,
       extract(hour FROM pickup AT TIME ZONE 'UTC')::float8 AS hour,
       payment,
       district
  FROM batchpred_demo.rides
 WHERE pickup >= :interval_start
   AND pickup < :interval_end
